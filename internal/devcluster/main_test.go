package devcluster

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
)

// A story waits most of its time, for checks and for nodes that come back: twice as many run at once as there are
// processors, where -parallel does not say how many.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		if err := flag.Set("test.parallel", fmt.Sprint(2*runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
