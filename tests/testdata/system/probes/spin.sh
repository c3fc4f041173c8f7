# Never end, on every processor.
i=$(nproc)
while [ $((i -= 1)) -gt 0 ]; do
  while :; do :; done &
done
while :; do :; done
