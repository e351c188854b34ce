// Dashboards writes the dashboards for Grafana in deploy/grafana: one that reads Prometheus, and one that reads the
// database _internal with InfluxQL. Both have the same panels, which panels.go lists. Run it after a change of them:
//
//	go run ./deploy/dashboards deploy/grafana
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: dashboards <folder>")
		os.Exit(2)
	}
	for name, content := range dashboards() {
		if err := os.WriteFile(filepath.Join(os.Args[1], name), content, 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// dashboards are the files by name.
func dashboards() map[string][]byte {
	return map[string][]byte{
		"prometheus.json": render(prometheus),
		"internal.json":   render(internal),
	}
}
