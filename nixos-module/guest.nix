# What a NixOS configuration needs to boot under Whiterun: its root in memory,
# its store from the share that Whiterun serves, and a console on hvc0.
{ lib, ... }:
{
  fileSystems."/" = lib.mkForce {
    device = "tmpfs";
    fsType = "tmpfs";
    options = [ "mode=0755" ];
  };

  # The closure of this very system and nothing else, read-only.
  fileSystems."/nix/store" = lib.mkForce {
    device = "nix-store";
    fsType = "9p";
    neededForBoot = true;
    options = [
      "trans=virtio"
      "version=9p2000.L"
      "msize=512000"
      "cache=loose"
      "access=any"
      "ro"
    ];
  };

  boot = {
    initrd.availableKernelModules = [
      "virtio_pci"
      "virtio_console"
      "9p"
      "9pnet_virtio"
      "overlay"
    ];
    # The console has to be there before stage 1 says anything.
    initrd.kernelModules = [
      "virtio_pci"
      "virtio_console"
    ];
    kernelParams = [
      "console=ttyS0"
      "console=hvc0"
    ];
    loader.grub.enable = lib.mkForce false;
    loader.systemd-boot.enable = lib.mkForce false;
  };

  swapDevices = lib.mkForce [ ];
  # The store is read-only: there is nothing to collect or to optimise.
  nix.gc.automatic = lib.mkForce false;
  nix.optimise.automatic = lib.mkForce false;
}
