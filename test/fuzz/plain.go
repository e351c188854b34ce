package fuzz

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"concord/internal/devcluster"
	"concord/test/process"
)

// plainVariable makes a process of this program the plain client; its value is the addresses of the nodes. The client
// has a process of its own, so that it waits for the nodes, and not for the workers of the campaign.
const plainVariable = "CONCORD_FUZZ_PLAIN"

// latencies are how long the requests of the plain client took, and why some failed.
type latencies struct {
	Took   []time.Duration
	Errors []string
}

// startPlain starts the plain client. stop ends it and returns what it saw.
func startPlain(nodes []*process.Node) (stop func() (*latencies, error), err error) {
	var bases []string
	for _, n := range nodes {
		bases = append(bases, n.Client().Base)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), plainVariable+"="+strings.Join(bases, ","))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	return func() (*latencies, error) {
		in.Close()
		var l latencies
		err := json.NewDecoder(out).Decode(&l)
		if ended := cmd.Wait(); err == nil {
			err = ended
		}
		return &l, err
	}, nil
}

// servePlain is the plain client's process. It ends with its input, and prints its latencies.
func servePlain(bases string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var clients []devcluster.Client
	for base := range strings.SplitSeq(bases, ",") {
		clients = append(clients, devcluster.Client{Base: base})
	}
	var l latencies
	l.plain(ctx, clients)
	return json.NewEncoder(os.Stdout).Encode(l)
}

// plain writes a point and reads it back, again and again, as a client does that means no harm.
func (l *latencies) plain(ctx context.Context, nodes []devcluster.Client) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		begun := time.Now()
		err := once(ctx, nodes[i%len(nodes)], i)
		if ctx.Err() != nil {
			return
		}
		l.Took = append(l.Took, time.Since(begun))
		if err != nil {
			l.Errors = append(l.Errors, err.Error())
		}
	}
}

func once(ctx context.Context, c devcluster.Client, i int) error {
	if err := c.Write(ctx, "plain", "one", fmt.Appendf(nil, "steady,host=h%d v=%d", i%10, i)); err != nil {
		return err
	}
	_, err := c.Query(ctx, "plain", fmt.Sprintf("SELECT last(v) FROM steady WHERE host = 'h%d'", i%10))
	return err
}

// figures are the median, the 99th percentile and the longest.
func (l *latencies) figures() (n int, median, p99, most time.Duration) {
	t := slices.Sorted(slices.Values(l.Took))
	if n = len(t); n > 0 {
		median, p99, most = t[n/2], t[n*99/100], t[n-1]
	}
	return n, median, p99, most
}
