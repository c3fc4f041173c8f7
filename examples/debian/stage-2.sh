#!@busybox@/bin/sh
# Stage 2 of the example: the system's init. It shows what the machine is, then
# runs the probes that whiterun.test=NAME[:ARG...][,NAME...] on the kernel command
# line names, in turn, and powers off. A probe is a script of this system;
# script=/nix/store/... runs any other.
export PATH=@busybox@/bin
mkdir -p /proc /sys /dev /run /tmp /root
# Stage 1 may have mounted the first three.
[ -e /proc/self ] || mount -t proc proc /proc
[ -e /sys/kernel ] || mount -t sysfs sys /sys
[ -e /dev/null ] || mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs -o mode=0755 run /run
hostname whiterun
export HOME=/root

cat <<END

  Welcome to Whiterun
    kernel       $(uname -r)
    processors   $(nproc)
    memory       $(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo) MiB
    store        $(ls /nix/store | wc -l) paths, $(awk '$2 == "/nix/store" { print $3 }' /proc/mounts)
    init         $0
    up after     $(cut -d' ' -f1 /proc/uptime) s

END

probe() {
  set -f
  IFS=:
  set -- $1
  unset IFS
  set +f
  name=$1
  shift
  case $name in
    script=*) file=${name#script=} ;;
    *) file=@probes@/$name.sh ;;
  esac
  echo "--- $name begins"
  if [ -f "$file" ]; then
    sh "$file" "$@"
  else
    echo "no probe $name"
    false
  fi
  echo "--- $name ends: $?"
}

probes=poweroff
for word in $(cat /proc/cmdline); do
  case $word in
    whiterun.test=*) probes=${word#whiterun.test=} ;;
  esac
done
while [ -n "$probes" ]; do
  first=${probes%%,*}
  probes=${probes#"$first"}
  probes=${probes#,}
  probe "$first"
done
probe poweroff
