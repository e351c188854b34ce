package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"concord/internal/cluster"
	"concord/internal/ldap/ldapconfig"
)

// Check returns what a server would refuse of a configuration: DNs and filters that are none.
func Check(c *ldapconfig.Config) error {
	for i := range c.Servers {
		s := &c.Servers[i]
		wrong := func(key string, err error) error { return fmt.Errorf("servers[%d] %s: %w", i, key, err) }
		for _, dn := range s.SearchBaseDNs {
			if _, err := goldap.ParseDN(dn); err != nil {
				return wrong("search-base-dns", fmt.Errorf("%q is not a DN: %w", dn, err))
			}
		}
		for _, dn := range s.GroupSearchBaseDNs {
			if _, err := goldap.ParseDN(dn); err != nil {
				return wrong("group-search-base-dns", fmt.Errorf("%q is not a DN: %w", dn, err))
			}
		}
		for _, f := range []struct{ key, filter string }{
			{"search-filter", s.SearchFilter}, {"group-membership-search-filter", s.GroupMembershipFilter},
			{"group-search-filter", s.GroupSearchFilter},
		} {
			if f.filter == "" {
				continue
			}
			if _, err := goldap.CompileFilter(strings.ReplaceAll(f.filter, "%s", "x")); err != nil {
				return wrong(f.key, fmt.Errorf("%q is not a filter: %w", f.filter, err))
			}
		}
	}
	return nil
}

// Verify tries a configuration, and returns a line for each step. Without a name it only connects to all servers, and
// logs in to search.
func Verify(
	ctx context.Context, c *ldapconfig.Config, base *tls.Config, st *cluster.State, name, password string,
) (lines []string, err error) {
	note := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if !c.Enabled {
		note("enabled = false: LDAP is off with this configuration")
	}
	if len(c.Servers) == 0 {
		return lines, errors.New("the configuration has no server")
	}
	if name == "" {
		return lines, connectAll(ctx, c, base, note)
	}
	if password == "" {
		return lines, errors.New("the password must not be empty")
	}
	p, err := ask(ctx, c, base, question{name: name, password: password}, note)
	if err != nil {
		return lines, err
	}
	if missing := p.rolesMissing(st); len(missing) > 0 {
		note("the cluster lacks the roles %q: make them, they give nothing until then", missing)
	}
	return lines, nil
}

func connectAll(ctx context.Context, c *ldapconfig.Config, base *tls.Config, note notes) error {
	limit := time.Duration(c.Timeout)
	var failed []string
	for i := range c.Servers {
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			s, err := dial(ctx, &c.Servers[i], base, maxAnswers, limit, note)
			if err != nil {
				return err
			}
			defer s.close()
			return s.bindReader()
		}()
		if err != nil {
			note("LDAP server %s: %v", c.Servers[i].Addr(), err)
			failed = append(failed, fmt.Sprintf("%s: %v", c.Servers[i].Addr(), err))
		}
	}
	if failed != nil {
		return errors.New(strings.Join(failed, "; "))
	}
	return nil
}
