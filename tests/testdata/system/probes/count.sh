# The number of entries of the large folder, listed and opened by name.
cd /nix/store/*-many/entries
echo "listed $(ls | wc -l)"
echo "distinct $(ls | sort -u | wc -l)"
echo "hidden too $(find . | wc -l)"
[ -f entry-9900 ] && [ -L entry-9999 ] && echo "found by name"
