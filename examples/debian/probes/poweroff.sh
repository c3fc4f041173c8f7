# Power off: the clean end.
sync
poweroff -f
sleep 60
