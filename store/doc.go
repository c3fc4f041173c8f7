// Package store is the Nix half of Whiterun: it leads from what the user typed
// to a NixOS system, its closure, and the manifest of a machine that boots it.
//
//	reference ──evaluate──▶ derivation ──build──▶ toplevel ──closure──▶ System ──▶ manifest
//	  "./result", a store path ─────────────────────┘
//
// Only here is a nix program run: `nix eval` once (twice when a short attribute
// has to be looked for below nixosConfigurations), `nix-store -r` once, which
// also holds the garbage collector's root, and `nix-store -qR` once.
package store
