package main

import "testing"

func TestResidentBeside(t *testing.T) {
	const smaps = `00400000-00a00000 r-xp 00000000 00:16 1234   /run/testbed/whiterun
Size:               6144 kB
Rss:                3000 kB
Pss:                3000 kB
7f0000000000-7f0020000000 rw-p 00000000 00:00 0
Size:             524288 kB
Rss:              200000 kB
VmFlags: rd wr mr mw me ac sd hg
7f0020000000-7f0020021000 rw-p 00000000 00:00 0      [heap]
Size:                132 kB
Rss:                  96 kB
7f1000000000-7f2000000000 ---p 00000000 00:00 0
Rss:                   4 kB
`
	if got, want := residentBeside(smaps, 512<<20), uint64(3100<<10); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	for _, junk := range []string{"", "\n", "Rss:", "Rss: x kB", "-", "- -"} {
		if got := residentBeside(junk, 512<<20); got != 0 {
			t.Errorf("%q: %d bytes", junk, got)
		}
	}
}

func TestSumHits(t *testing.T) {
	const hist = `# event histogram
#
# trigger info: hist:keys=common_pid:vals=hitcount:sort=hitcount:size=2048 [active]
#

{ common_pid:          1 } hitcount:         17
{ common_pid:       1234 } hitcount:         56
{ common_pid:       1235 } hitcount:          4

Totals:
    Hits: 77
    Entries: 3
    Dropped: 0
`
	if got := sumHits(hist, map[string]bool{"1": true}); got != 60 {
		t.Errorf("%d hits, want 60", got)
	}
	if got := sumHits(hist, nil); got != 77 {
		t.Errorf("%d hits in all, want 77", got)
	}
}

func TestStoreRequests(t *testing.T) {
	const log = `whiterun: a line of no log
{"level":"debug","device":"console","queue":1,"requests":21,"kicks":21,"message":"virtqueue"}
{"level":"debug","device":"store","queue":0,"requests":81,"kicks":80,"message":"virtqueue"}
{"level":"debug","requests":"walk 24, lopen 13","message":"9P"}
`
	if got, ok := storeRequests([]byte(log)); !ok || got != 81 {
		t.Errorf("%d, %t", got, ok)
	}
	if _, ok := storeRequests([]byte(`{"message":"virtqueue","device":"store","requests":"many"}`)); ok {
		t.Error("found requests where there are none")
	}
}
