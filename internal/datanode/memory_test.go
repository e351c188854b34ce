package datanode

import (
	"runtime"
	"testing"
	"time"
)

func TestMemoryThatIsFreeIsKnown(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it is known on Linux alone")
	}
	all, err := machineMemory()
	if err != nil {
		t.Fatal(err)
	}
	free := freeMemory()
	if free == 0 || free >= all {
		t.Errorf("%d of %d bytes are free", free, all)
	}
	most := time.Duration(float64(all) / takenAtMost * float64(time.Second))
	if lasts := memoryLasts(); lasts <= 0 || lasts >= most {
		t.Errorf("the memory lasts for %v", lasts)
	}
}
