package ctl

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"concord/internal/entropy/api"
)

func (c *client) entropyResolve() *cobra.Command {
	var measurement, field, typ string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "resolve <shard-id> -measurement <name> -field <name> -type <type>",
		Short: "Give a field one type on all owners of a shard, and set its values of other types aside",
		Long: "Give a field one type on all owners of a shard: float, integer, unsigned, boolean or string. Each owner " +
			"writes its values of other types\n" +
			"to a file of line protocol, removes them, and gets the values of the others. Run it again if it fails: " +
			"it goes on where it ended.",
		Example: "  influxd-ctl entropy resolve 22 -measurement cpu -field load -type float",
		Args:    args("shard-id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, f := range []struct{ name, value string }{{"measurement", measurement}, {"field", field},
				{"type", typ}} {
				if f.value == "" {
					return errors.New("-" + f.name + ": must be given")
				}
			}
			var r api.Resolved
			params := url.Values{"id": args, "measurement": {measurement}, "field": {field}, "type": {typ}}
			if err := c.patient().call(cmd.Context(), http.MethodPost, api.Base+"/resolve", params, &r); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			if asJSON {
				return printJSON(w, r)
			}
			for _, o := range r.Owners {
				if o.Kept == "" {
					fmt.Fprintf(w, "%s: nothing to set aside\n", o.Node)
				} else {
					fmt.Fprintf(w, "%s: set %d points aside in %s\n", o.Node, o.Points, o.Kept)
				}
			}
			fmt.Fprintf(w, "Field %q of %q is %s in shard %s; its repair is queued: see entropy show\n",
				field, measurement, typ, args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&measurement, "measurement", "", "name of the measurement")
	cmd.Flags().StringVar(&field, "field", "", "name of the field")
	cmd.Flags().StringVar(&typ, "type", "", "type that the field is to have")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
