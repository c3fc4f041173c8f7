# Restart the machine.
sync
reboot -f
sleep 60
