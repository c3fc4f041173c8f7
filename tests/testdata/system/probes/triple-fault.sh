# Restart by a triple fault.
echo triple >/sys/kernel/reboot/type
reboot -f
sleep 60
