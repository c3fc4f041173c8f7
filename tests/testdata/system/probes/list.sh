# The store's paths.
ls /nix/store
