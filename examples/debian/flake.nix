{
  description = "A machine for Whiterun, built from the Debian it is built on";

  # No inputs: everything comes from the build machine's /boot, /lib/modules and
  # busybox, so that it builds offline, with any nix, in seconds.
  outputs =
    { self }:
    let
      system = import ./system.nix;
    in
    {
      nixosConfigurations = {
        # The newest kernel of the build machine.
        vm = system { };
        vm-6_1 = system { kernelVersion = "6.1"; };
        vm-6_12 = system { kernelVersion = "6.12"; };
      };
    };
}
