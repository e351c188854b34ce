package daemon

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"concord/internal/config"
)

// healthTimeout bounds the check of a node.
const healthTimeout = 5 * time.Second

// Health is the command `health`: it asks the node of this machine whether it serves. Images have no other program
// that could. listener returns where a node with that configuration serves HTTP, and whether with TLS.
// name is that of the program.
func Health[C config.Settings](
	name string, program config.Program[C], listener func(C) (bind string, secure bool),
) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use: "health", Short: "Succeed when the node of this machine serves HTTP", Args: cobra.NoArgs,
		Example: "  " + name + " health",
		RunE: func(*cobra.Command, []string) error {
			c, err := program.Load(program.Path(path, os.Getenv), os.Getenv)
			if err != nil {
				return err
			}
			return ping(listener(c))
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "path of the configuration file of the node")
	return cmd
}

// ping asks the listener at bind. The certificate is not verified: it is for the names that other machines know.
func ping(bind string, secure bool) error {
	host, port, err := net.SplitHostPort(bind)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	url := "http://" + net.JoinHostPort(host, port) + "/ping"
	if secure {
		url = "https" + url[len("http"):]
	}
	client := http.Client{
		Timeout:   healthTimeout,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
	}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}
