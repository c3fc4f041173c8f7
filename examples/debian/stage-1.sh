#!/bin/busybox sh
# Stage 1 of the example: from the initrd to the system in the Nix store.
bin=/bin/busybox
$bin --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

# Some are part of newer kernels. pvpanic tells the host of a panic.
modprobe -a virtio_pci virtio_console 9pnet_virtio 9p overlay pvpanic-mmio pvpanic-pci 2>/dev/null

# The console may have come with a driver.
exec </dev/console >/dev/console 2>&1

init=/init
options=trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any
for word in $(cat /proc/cmdline); do
  case $word in
    init=*) init=${word#init=} ;;
    whiterun.store=*) options=${word#whiterun.store=} ;;
  esac
done

root=/root
mkdir -p $root
mount -t tmpfs -o mode=0755 root $root
mkdir -p $root/proc $root/sys $root/dev $root/run $root/tmp $root/nix/store
mount -t 9p -o ro,$options nix-store $root/nix/store || {
  echo "stage 1: cannot mount the store"
  exec sh
}
for dir in proc sys dev; do
  mount --move /$dir $root/$dir
done
exec switch_root $root "$init"
