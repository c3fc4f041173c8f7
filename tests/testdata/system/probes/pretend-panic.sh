# Print the words of a kernel panic, as a program and through the kernel's log
# at its highest level, and live: idle, then busy, for longer than it takes to
# look into a panic.
pretend() {
  echo "$2Kernel panic - not syncing: pretended" >$1
  echo "$2---[ end Kernel panic - not syncing: pretended ]---" >$1
  sleep 3
  i=0
  while [ $i -lt 50000 ]; do i=$((i + 1)); done
}
pretend /dev/console
pretend /dev/kmsg '<0>'
echo 'still here'
