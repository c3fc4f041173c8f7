# One checksum of the names, kinds, permissions, sizes and link targets of all
# that lies below the given store paths, by default all of /nix/store.
[ $# -gt 0 ] || set -- /nix/store/*
{
  find "$@" -type d -print0 | xargs -0 stat -c 'd %a %n'
  find "$@" -type f -print0 | xargs -0 stat -c 'f %a %s %n'
  find "$@" -type l -print0 | xargs -0 stat -c 'l %s %N'
} | LC_ALL=C sort | md5sum | cut -d' ' -f1
