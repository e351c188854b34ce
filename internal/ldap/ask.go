package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"concord/internal/ldap/ldapconfig"
)

// ErrUnavailable is wrapped by the errors of questions that no server has answered.
var ErrUnavailable = errors.New("no LDAP server says who the user is")

// question is what the servers are asked about one user.
type question struct {
	name     string
	password string // empty to ask who the user is, without a login
	known    *person
}

// ask asks the servers in order, until one knows the user. The next one is asked when a server does not answer, or does
// not know the user. It returns errUnknown, errWrong, or an error that wraps ErrUnavailable.
func ask(ctx context.Context, c *ldapconfig.Config, base *tls.Config, q question, note notes) (person, error) {
	var failed []string
	for i := range c.Servers {
		s := &c.Servers[i]
		if q.known != nil && q.known.server != s.Addr() {
			continue
		}
		p, err := askOne(ctx, c, s, base, q, note)
		switch {
		case err == nil || errors.Is(err, errWrong):
			return p, err
		case errors.Is(err, errUnknown):
		default:
			note("LDAP server %s: %v", s.Addr(), err)
			failed = append(failed, fmt.Sprintf("%s: %v", s.Addr(), err))
		}
	}
	if len(failed) > 0 {
		return person{}, fmt.Errorf("%w: %s", ErrUnavailable, strings.Join(failed, "; "))
	}
	return person{}, errUnknown
}

// askOne asks one server. The groups are read before the password is checked, while the connection is logged in as the
// one who may search.
func askOne(
	ctx context.Context, c *ldapconfig.Config, server *ldapconfig.Server, base *tls.Config, q question, note notes,
) (p person, err error) {
	limit := time.Duration(c.Timeout)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := dial(ctx, server, base, maxAnswers, limit, note)
	if err != nil {
		return person{}, err
	}
	defer s.close()
	if q.known != nil {
		p = *q.known
	} else {
		if err := s.bindReader(); err != nil {
			return person{}, err
		}
		if p, err = s.identify(q.name); err != nil {
			return person{}, err
		}
	}
	if q.password == "" {
		return p, nil
	}
	return p, s.bindUser(p.dn, q.password)
}
