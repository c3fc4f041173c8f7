{
  description = "The system Whiterun's own tests boot: the example and a store full of odd things";

  # ./debian is a link to the example. A flake sees nothing outside its folder, so
  # this one is built from a copy with links followed (cp -rL), which the testbed
  # makes in /srv/whiterun.
  outputs =
    { self }:
    let
      system = import ./debian/system.nix;
      contents = import ./contents.nix;
      test =
        kernelVersion:
        system {
          inherit kernelVersion contents;
          probes = [ ./probes ];
        };
    in
    {
      nixosConfigurations = {
        vm-6_1 = test "6.1";
        vm-6_12 = test "6.12";
      };
    };
}
