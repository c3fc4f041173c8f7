# Build the systems of the repository's flakes with nix and keep them.
# $1 is the repository, the rest the flakes' folders in it.
repo=$1
shift
sources=/srv/whiterun
if [ "$(stat -c %u /usr)" != 0 ]; then
  # The root was packed by an ordinary user. What is mounted keeps its owner.
  find / -xdev -exec chown -h 0:0 {} + 2>/dev/null || true
fi
ldconfig
for modules in /lib/modules/*; do
  depmod "${modules##*/}"
done
for flake in "$@"; do
  # A flake is a folder by itself: a link out of it becomes what it names.
  mkdir -p "$sources/$(dirname "$flake")"
  cp -rL "$repo/$flake" "$sources/$flake"
done
for flake in "$@"; do
  results=$sources/systems/$(basename "$flake")
  mkdir -p "$results"
  names=$(nix --offline eval --raw "path:$sources/$flake#nixosConfigurations" \
    --apply 's: builtins.concatStringsSep " " (builtins.attrNames s)')
  for name in $names; do
    start=$SECONDS
    nix --offline build --quiet "path:$sources/$flake#nixosConfigurations.$name.config.system.build.toplevel" \
      --no-write-lock-file --out-link "$results/$name"
    echo "testbed: built $flake $name: $((SECONDS - start)) s, $(nix-store -qR "$results/$name" | wc -l) store paths"
  done
done
