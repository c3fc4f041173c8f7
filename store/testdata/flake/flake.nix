{
  description = "systems and things that are none, without any input";

  outputs = { self }:
    let
      build = name: script: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        PATH = "/usr/bin:/bin";
        args = [ "-c" (script + "\nexit 0") ];
      };

      kernel = build "linux" "mkdir $out; echo kernel > $out/bzImage";
      initrd = build "initrd" "mkdir $out; echo initrd > $out/initrd";
      etc = build "etc" "mkdir $out; echo vm > $out/hostname";

      toplevel = build "nixos-system-vm-26.05.1" ''
        echo building the toplevel >&2
        mkdir $out
        ln -s ${kernel}/bzImage $out/kernel
        ln -s ${initrd}/initrd $out/initrd
        ln -s ${etc} $out/etc
        printf '%s' 'the=file is=ignored' > $out/kernel-params
        echo '#!/bin/sh' > $out/init
        cat > $out/boot.json <<END
        { "org.nixos.bootspec.v1": {
            "system": "x86_64-linux", "label": "NixOS vm", "toplevel": "$out", "init": "$out/init",
            "kernel": "${kernel}/bzImage", "initrd": "${initrd}/initrd",
            "kernelParams": [ "loglevel=4", "net.ifnames=0" ] } }
        END
      '';
    in
    {
      nixosConfigurations.vm = {
        config.system.build = { inherit toplevel; };
        extendModules = throw "nothing but the toplevel is evaluated";
      };

      inherit toplevel;
      classic.system = toplevel;
      old = build "nixos-system-old-19.03.1" ''
        mkdir $out
        ln -s ${kernel}/bzImage $out/kernel
        printf '%s' 'from=file init=/elsewhere' | cut -d' ' -f1 > $out/kernel-params
        echo '#!/bin/sh' > $out/init
      '';

      string = "a string";
      number = 3;
      function = x: x;
      set = { a = 1; b = throw "not looked at"; c = { }; };
      empty = { };
      hello = build "hello" "echo hello > $out";
      container = build "nixos-system-box-26.05.1" "mkdir $out; echo '#!/bin/sh' > $out/init";
      broken = throw "this configuration is broken";
      fails = build "fails" "echo the builder gave up >&2; exit 1";
      slow = build "slow" "sleep 987.25";
    };
}
