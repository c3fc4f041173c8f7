# What the guest sees of its processors and memory.
echo "processors $(nproc)"
grep -E '^(processor|physical id|siblings|core id|cpu cores|apicid)' /proc/cpuinfo
grep MemTotal /proc/meminfo
