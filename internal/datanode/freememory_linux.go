package datanode

import (
	"bufio"
	"math"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// freeMemory is how many bytes this process can still take: of what the machine has, of what its control group lets it
// have, and of its own limits. 0 is for not known.
func freeMemory() uint64 {
	machine, process := kilobytes("/proc/meminfo"), kilobytes("/proc/self/status")
	free, ok := machine["MemAvailable"]
	if !ok || len(process) == 0 {
		return 0
	}
	left := func(limit, used uint64) { free = min(free, limit-min(limit, used)) }
	if most, err := machineMemory(); err == nil {
		left(most, process["RssAnon"])
	}
	for resource, used := range map[int]uint64{unix.RLIMIT_AS: process["VmSize"], unix.RLIMIT_DATA: process["VmData"]} {
		var limit unix.Rlimit
		if err := unix.Getrlimit(resource, &limit); err == nil && limit.Cur < math.MaxInt64 {
			left(limit.Cur, used)
		}
	}
	return free
}

// kilobytes reads the lines "name: number kB" of a file, as bytes.
func kilobytes(path string) map[string]uint64 {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	out := make(map[string]uint64)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		number, kb := strings.CutSuffix(strings.TrimSpace(rest), " kB")
		if n, err := strconv.ParseUint(number, 10, 64); kb && err == nil {
			out[name] = n << 10
		}
	}
	return out
}
