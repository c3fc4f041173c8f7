package boot

import (
	"fmt"
	"os"
	"testing"

	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/tests/internal/guest"
)

// Every kernel with every number of vCPUs and every size of memory, and all that
// is to be known about the store in each. It takes an hour in the outer machine.
func TestSoakMatrix(t *testing.T) {
	if os.Getenv("WHITERUN_SOAK") == "" {
		t.Skip("takes long: make soak runs it")
	}
	for _, system := range testbed.Systems(t, testbed.Test) {
		for _, cpus := range []string{"1", "2", "4", "sockets=1,cores=2,threads=2", "sockets=2,cores=2,threads=1", "8"} {
			for _, mem := range []string{"256", "1G", "3G", "4G", "6G"} {
				t.Run(fmt.Sprintf("%s,cpus=%s,mem=%s", system, cpus, mem), func(t *testing.T) {
					s := shape{system, cpus, mem}
					r := guest.Boot(t, testbed.Reference(t, testbed.Test, system), s.args(append([]string{"machine"}, storeProbes...)...)...)
					r.Ended(t, 0, "the guest powered off")
					checkMachine(t, r, s)
					checkStore(t, r, testbed.System(t, testbed.Test, system))
				})
			}
		}
	}
}
