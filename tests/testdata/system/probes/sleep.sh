# Never end, without using a processor.
while :; do
  sleep 1000
done
