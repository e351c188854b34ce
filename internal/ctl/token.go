package ctl

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func (c *client) token() *cobra.Command {
	var exp time.Duration
	cmd := &cobra.Command{
		Use: "token", Short: "Print a signed token, for Authorization: Bearer", Args: args(),
		Long: "Print a signed token, for Authorization: Bearer. With -user it is a token of that user, as [http] " +
			"shared-secret " +
			"of\ndata nodes needs it.",
		Example: "  influxd-ctl -auth-type jwt -secret sHaR3dS3cRe7 token -exp 5m\n" +
			"  influxd-ctl -auth-type jwt -secret sHaR3dS3cRe7 -user paul token",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.configure(); err != nil {
				return err
			}
			if c.authType != "jwt" {
				return errors.New("token: only with -auth-type jwt, and -secret or -config")
			}
			if exp <= 0 {
				return errors.New("-exp: must be above 0")
			}
			t, err := c.secret.UserToken(c.user, exp)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), t)
			return nil
		},
	}
	cmd.Flags().DurationVar(&exp, "exp", time.Minute, "how long it is good for")
	return cmd
}
