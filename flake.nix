{
  description = "Boots Nix-built machines straight from the Nix store, under its own KVM hypervisor";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      # The hypervisor is x86_64 only for now.
      systems = [ "x86_64-linux" ];
      forAllSystems = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = forAllSystems (pkgs: rec {
        default = whiterun;
        whiterun = pkgs.buildGoModule {
          pname = "whiterun";
          version = "0.1.0";
          src = self;
          # `go test ./internal/flake` says what this has to be when go.mod changes.
          vendorHash = "sha256-f1asDf9MmkqRo862PvqM9VTiBNalru71HhTyjqWCBNU=";
          subPackages = [ "cmd/whiterun" ];
          env.CGO_ENABLED = 0;
          ldflags = [ "-s" "-w" ];
          meta = {
            description = "Boots Nix-built machines straight from the Nix store";
            license = pkgs.lib.licenses.mit;
            mainProgram = "whiterun";
            platforms = systems;
          };
        };
      });

      apps = forAllSystems (pkgs: {
        default = {
          type = "app";
          program = nixpkgs.lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.whiterun;
        };
      });

      nixosModules.guest = ./nixos-module/guest.nix;

      checks = forAllSystems (pkgs: {
        inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) whiterun;
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt);
    };
}
