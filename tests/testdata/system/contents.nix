# Store paths with everything a served store may get wrong.
let
  build = import ./debian/build.nix;

  # Bytes that differ everywhere, so that a page in the wrong place shows, and
  # are the same in every build.
  numbers = build "numbers" { } ''
    seq 1 260000 >$out
  '';

  # n·4096 + tail bytes, around the sizes at which clients showed zeros at the
  # end of files.
  tails = build "tails" { inherit numbers; } ''
    mkdir $out
    for pages in 0 1 2 3 31 125; do
      for tail in 0 1 655 1023 1024 1025 4095; do
        size=$((pages * 4096 + tail))
        # Each file starts elsewhere.
        tail -c +$((1 + size % 9973)) $numbers | head -c $size >$out/$pages-$tail
      done
    done
  '';

  # 10,000 entries: dangling links, and each hundredth a small file.
  many = build "many" { } ''
    mkdir -p $out/entries $out/files
    cd $out/files
    seq 0 9999 | split -l 1 -a 4 -d - entry-
    cd ../entries
    cp -s ../files/* .
    rm entry-??00
    mv ../files/entry-??00 .
    rm -r ../files
  '';

  # Some 25 MB of ordinary files.
  tree = build "tree" { } ''
    mkdir -p $out/bin
    cp -r /usr/lib/x86_64-linux-gnu/gconv $out/
    cp -d /usr/bin/[a-m]* $out/bin/
  '';

  odd = build "odd" { inherit numbers tails; } ''
    mkdir -p $out/empty-folder $out/deep/er/and/deep/er
    cd $out
    : >empty
    echo 'with spaces' >'a name  with spaces '
    echo unicode >'Weißlauf-白漫城-🐎'
    echo dash >./-dash
    echo dot >.hidden
    echo quote >"quote'\"\$x"
    echo long >$(printf 'n%.0s' $(seq 255))
    ln -s empty relative
    ln -s $numbers absolute
    ln -s $tails/1-655 deep/er/and/deep/er/file
    ln -s /nix/store/00000000000000000000000000000000-nowhere dangling
    ln -s loop loop
    ln -s "$(printf 'x%.0s' $(seq 1000))" long-target
    printf '#!/bin/sh\necho I ran\n' >executable
    chmod +x executable
    echo data >not-executable
  '';
in
[
  numbers
  tails
  many
  tree
  odd
]
