# 100 readers, or as many as asked for, read the same files at once, from the
# store and not from memory; prints how many different results they got, and them.
cd /nix/store/*-tails
readers=${1:-100}
mkdir -p /tmp/readers
sync
echo 3 2>/dev/null >/proc/sys/vm/drop_caches
i=0
while [ $i -lt "$readers" ]; do
  cat ./[0-3]-* ./31-* | md5sum >/tmp/readers/$i &
  i=$((i + 1))
done
wait
echo "readers $(ls /tmp/readers | wc -l)"
echo "results $(cat /tmp/readers/* | sort -u | wc -l)"
cat /tmp/readers/* | sort -u
rm -r /tmp/readers
