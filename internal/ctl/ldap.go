package ctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"concord/internal/ldap/ldapconfig"
	"concord/internal/meta/wire"
)

// maxLDAPConfig is more than any configuration has.
const maxLDAPConfig = 1 << 20

func (c *client) ldap() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "ldap", Short: "Set, show and try the LDAP configuration of the cluster, and manage the caches of its users",
		Example: "  influxd-ctl ldap sample-config > ldap.toml\n  influxd-ctl ldap set-config ldap.toml",
	})
	cmd.AddCommand(
		c.ldapGet(), c.ldapSet(), ldapSample(), c.ldapVerify(), c.ldapPurge(), c.ldapWarm(),
	)
	return cmd
}

func (c *client) ldapGet() *cobra.Command {
	return &cobra.Command{
		Use: "get-config", Short: "Print the LDAP configuration, without its bind passwords", Args: args(),
		Example: "  influxd-ctl ldap get-config > ldap.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out wire.LDAPConfig
			if err := c.call(cmd.Context(), http.MethodGet, wire.LDAPConfigPath, nil, &out); err != nil {
				return err
			}
			if out.TOML == "" {
				return errors.New("the cluster has no LDAP configuration: see influxd-ctl ldap set-config")
			}
			fmt.Fprint(cmd.OutOrStdout(), out.TOML)
			return nil
		},
	}
}

func (c *client) ldapSet() *cobra.Command {
	return &cobra.Command{
		Use: "set-config <file>", Short: "Give the cluster an LDAP configuration; - reads it from standard input",
		Example: "  influxd-ctl ldap set-config ldap.toml\n  influxd-ctl ldap set-config -", Args: args("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readConfig(cmd, args[0])
			if err != nil {
				return err
			}
			if err := c.post(cmd, wire.LDAPConfigPath, text, nil); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The cluster has the LDAP configuration")
			return nil
		},
	}
}

func ldapSample() *cobra.Command {
	return &cobra.Command{
		Use: "sample-config", Short: "Print a sample of an LDAP configuration", Args: args(),
		Example: "  influxd-ctl ldap sample-config > ldap.toml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprint(cmd.OutOrStdout(), ldapconfig.Sample)
			return nil
		},
	}
}

func (c *client) ldapVerify() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "verify [<user> <password>]", Short: "Log in to the LDAP server and print each step; nothing is changed",
		Long: "Log in to the LDAP server and print each step; nothing is changed. The meta node tries it. Without a user it " +
			"only\nconnects to all servers, and logs in to search.",
		Example: "  influxd-ctl ldap verify -ldap-config ldap.toml paul s3cr3t\n  influxd-ctl ldap verify paul s3cr3t",
		Args:    args("[user]", "[password]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var body wire.LDAPVerify
			if file != "" {
				text, err := readConfig(cmd, file)
				if err != nil {
					return err
				}
				body.Config = string(text)
			}
			if len(args) == 1 {
				return missing(cmd, "password")
			} else if len(args) == 2 {
				body.User, body.Password = args[0], args[1]
			}
			b, err := json.Marshal(body)
			if err != nil {
				return err
			}
			var out wire.LDAPVerified
			if err := c.slow().post(cmd, wire.LDAPVerifyPath, b, &out); err != nil {
				return err
			}
			for _, line := range out.Steps {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			if out.Failed != "" {
				return errors.New(out.Failed)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "The LDAP configuration works")
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "ldap-config", "",
		"file with the configuration, - for standard input; that of the cluster when empty")
	return cmd
}

func (c *client) ldapPurge() *cobra.Command {
	return &cobra.Command{
		Use: "purge-cache", Short: "Make all nodes forget what LDAP servers told them", Args: args(),
		Example: "  influxd-ctl ldap purge-cache",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.post(cmd, wire.LDAPPurgePath, nil, nil); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "All nodes have forgotten what LDAP servers told them")
			return nil
		},
	}
}

func (c *client) ldapWarm() *cobra.Command {
	var status, cancel bool
	cmd := &cobra.Command{
		Use: "warm-cache", Short: "Make all data nodes read who is in which group", Args: args(),
		Example: "  influxd-ctl ldap warm-cache\n  influxd-ctl ldap warm-cache -status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			method := http.MethodPost
			switch {
			case status && cancel:
				return errors.New("warm-cache: give -status or -cancel, not both")
			case status:
				method = http.MethodGet
			case cancel:
				method = http.MethodDelete
			}
			var out wire.LDAPWarm
			if err := c.slow().call(cmd.Context(), method, wire.LDAPWarmPath, nil, &out); err != nil {
				return err
			}
			rows := [][]string{{"Node", "State", "Groups", "Users", "Error"}}
			var failed int
			for _, n := range out.Nodes {
				if n.State == "unknown" {
					failed++
				}
				rows = append(rows, []string{
					n.Node, n.State, strconv.FormatInt(n.Groups, 10), strconv.FormatInt(n.Users, 10), n.Error,
				})
			}
			table(cmd.OutOrStdout(), "LDAP Cache Warming", rows)
			if failed > 0 {
				return fmt.Errorf("%d of %d data nodes do not answer", failed, len(out.Nodes))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&status, "status", false, "only print how far the last warming is")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "end the warming that runs")
	return cmd
}

// readConfig reads a file, or standard input for -.
func readConfig(cmd *cobra.Command, path string) ([]byte, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxLDAPConfig+1))
	if err == nil && len(b) > maxLDAPConfig {
		err = fmt.Errorf("%s is too large: an LDAP configuration has at most %d bytes", path, maxLDAPConfig)
	}
	return b, err
}

// post sends a body, and decodes the answer into out unless that is nil.
func (c *client) post(cmd *cobra.Command, path string, body []byte, out any) error {
	return c.callWith(cmd.Context(), http.MethodPost, path, nil, bytes.NewReader(body), out)
}
