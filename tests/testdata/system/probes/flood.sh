# Fill the console for ever, or with as many lines as asked for.
if [ -n "$1" ]; then
  yes 'all work and no play makes a dull guest' | head -n "$1"
else
  yes 'all work and no play makes a dull guest'
fi
