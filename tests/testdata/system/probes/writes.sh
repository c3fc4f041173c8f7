# Try every kind of write in the store: each has to fail with EROFS. With
# "remounted" the client's own guard is off, so that the server has to refuse.
[ "$1" != remounted ] || mount -o remount,rw /nix/store
cd /nix/store/*-odd
bad=0
refused() {
  what=$1
  shift
  if message=$("$@" 2>&1); then
    echo "SUCCEEDED: $what"
    bad=$((bad + 1))
  else
    case $message in
      *'Read-only file system'*) echo "refused: $what" ;;
      *)
        echo "OTHERWISE: $what: $message"
        bad=$((bad + 1))
        ;;
    esac
  fi
}
refused create touch new
refused create-in-store touch /nix/store/new
refused open-to-write sh -c 'echo x >not-executable'
refused append sh -c 'echo x >>not-executable'
refused truncate truncate -s 0 not-executable
refused unlink rm -f empty
refused unlink-link rm -f relative
refused mkdir mkdir new
refused rmdir rmdir empty-folder
refused rename mv empty renamed
refused link ln empty hard
refused symlink ln -s empty soft
refused mknod mknod pipe p
refused chmod chmod 755 not-executable
refused chown chown 1:1 not-executable
refused set-times touch -d '2001-01-01 00:00' not-executable
[ "$1" != remounted ] || mount -o remount,ro /nix/store
echo "not refused $bad"
[ $bad = 0 ]
