# A system in the shape of NixOS', from Debian's kernel and busybox.
#
# As in NixOS, `config.system.build.toplevel` is what boots: a store path with
# a kernel, an initrd, an init and a boot.json that says so, and whose closure is
# all the machine needs.
{
  # The kernel is the newest in /boot whose version begins with this.
  kernelVersion ? "",
  # Folders of scripts that `whiterun.test=NAME` on the kernel command line may name.
  probes ? [ ],
  # More store paths to have in the closure.
  contents ? [ ],
}:
let
  build = import ./build.nix;

  # $out/bzImage and $out/version. Debian's cloud kernels have no 9p.
  kernel = build "linux-debian" { pattern = if kernelVersion == "" then "*" else "${kernelVersion}[.-]*"; } ''
    image=$(ls -v /boot/vmlinuz-$pattern | grep -v cloud | tail -n 1)
    mkdir $out
    cp "$image" $out/bzImage
    echo "''${image#/boot/vmlinuz-}" >$out/version
  '';

  # What a guest's drivers and file systems are made of; with what they need.
  moduleNames = [
    "virtio_pci"
    "virtio_console"
    "virtio_rng"
    "virtio_blk"
    "virtio_net"
    "9p"
    "9pnet_virtio"
    "overlay"
    "erofs"
    "squashfs"
    "pvpanic-mmio"
    "pvpanic-pci"
  ];

  # $out/lib/modules/VERSION, decompressed so that busybox can load them.
  modules = build "linux-debian-modules" { inherit kernel moduleNames; } ''
    version=$(cat $kernel/version)
    mkdir -p $out/lib/modules/$version
    for module in $moduleNames; do
      modprobe --set-version $version --show-depends $module
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >files
    while read -r file; do
      cp --parents "$file" $out
    done <files
    find $out -name '*.xz' -exec xz --decompress {} +
    find $out -name '*.zst' -exec zstd --quiet --decompress --rm {} +
    cp /lib/modules/$version/modules.builtin* $out/lib/modules/$version/
    touch $out/lib/modules/$version/modules.order
    depmod -b $out $version
  '';

  # busybox with a link for each of its programs.
  busybox = build "busybox" { } ''
    mkdir -p $out/bin
    for program in $(/bin/busybox --list); do
      ln -s busybox $out/bin/$program
    done
    cp --remove-destination /bin/busybox $out/bin/
  '';

  # Stage 1: load the drivers, mount the store, go on to the command line's init.
  initrd = build "initrd" { inherit busybox modules; stage1 = ./stage-1.sh; } ''
    mkdir -p root/bin root/proc root/sys root/dev $out
    cp $busybox/bin/busybox root/bin/
    cp -r $modules/lib root/
    cp $stage1 root/init
    chmod -R u+w root
    chmod +x root/init
    (cd root; find . | sort | cpio --quiet --create --format=newc --owner=0:0 --reproducible) >$out/initrd
  '';

  probeFolder = build "probes" { folders = [ ./probes ] ++ probes; } ''
    mkdir $out
    for folder in $folders; do
      cp $folder/*.sh $out/
    done
  '';

  kernelParams = [ "loglevel=4" ];

  toplevel =
    build "nixos-system-whiterun-debian"
      {
        inherit
          kernel
          modules
          initrd
          busybox
          contents
          kernelParams
          ;
        probes = probeFolder;
        stage2 = ./stage-2.sh;
        bootParams = builtins.toJSON kernelParams;
      }
      ''
        mkdir $out
        sed -e "s|@busybox@|$busybox|g" -e "s|@probes@|$probes|g" $stage2 >$out/init
        chmod +x $out/init
        ln -s $kernel/bzImage $out/kernel
        ln -s $initrd/initrd $out/initrd
        ln -s $modules $out/kernel-modules
        printf %s "$kernelParams" >$out/kernel-params
        printf %s x86_64-linux >$out/system
        printf %s debian >$out/nixos-version
        echo $contents >$out/contents
        cat >$out/boot.json <<END
        {
          "org.nixos.bootspec.v1": {
            "init": "$out/init",
            "initrd": "$initrd/initrd",
            "kernel": "$kernel/bzImage",
            "kernelParams": $bootParams,
            "label": "Whiterun example (Linux $(cat $kernel/version))",
            "system": "x86_64-linux",
            "toplevel": "$out"
          },
          "org.nixos.specialisation.v1": {}
        }
        END
      '';
in
{
  config.system.build = {
    inherit toplevel kernel modules;
    initialRamdisk = initrd;
  };
}
