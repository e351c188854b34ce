package firststart

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Plan is what the environment asks for.
type Plan struct {
	Join   []string          // HTTP addresses of meta nodes, host:port
	Labels map[string]string // of a data node
	Setup  Setup
}

// Setup is what an empty cluster gets.
type Setup struct {
	Database string
	Replicas int // of Database; 0 for the default
	Admin    Account
	User     Account // reads and writes Database
	Reader   Account
	Writer   Account
}

// Account is a user with a password. It has no name when there is none.
type Account struct{ Name, Password string }

// FromEnvironment returns the plan, or an error that begins with the name of a variable.
func FromEnvironment(getenv func(string) string) (Plan, error) {
	p := Plan{Setup: Setup{Database: getenv("INFLUXDB_DB")}}
	for _, addr := range list(getenv("INFLUXDB_JOIN")) {
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			return p, fmt.Errorf("INFLUXDB_JOIN: %q is not the address of a meta node: give host:8091", addr)
		}
		p.Join = append(p.Join, addr)
	}
	for _, label := range list(getenv("INFLUXDB_LABELS")) {
		key, value, ok := strings.Cut(label, "=")
		if !ok || key == "" {
			return p, fmt.Errorf("INFLUXDB_LABELS: %q is not a label: give key=value", label)
		}
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[key] = value
	}
	if n := getenv("INFLUXDB_DB_REPLICATION"); n != "" {
		var err error
		if p.Setup.Replicas, err = strconv.Atoi(n); err != nil || p.Setup.Replicas < 1 {
			return p, fmt.Errorf("INFLUXDB_DB_REPLICATION: %q is not a number of copies", n)
		}
	}
	return p, p.Setup.readAccounts(getenv)
}

func (s *Setup) readAccounts(getenv func(string) string) error {
	for _, a := range []struct {
		user, password string
		to             *Account
	}{
		{"INFLUXDB_ADMIN_USER", "INFLUXDB_ADMIN_PASSWORD", &s.Admin},
		{"INFLUXDB_USER", "INFLUXDB_USER_PASSWORD", &s.User},
		{"INFLUXDB_READ_USER", "INFLUXDB_READ_USER_PASSWORD", &s.Reader},
		{"INFLUXDB_WRITE_USER", "INFLUXDB_WRITE_USER_PASSWORD", &s.Writer},
	} {
		*a.to = Account{Name: getenv(a.user), Password: getenv(a.password)}
		if a.to.Name != "" && a.to.Password == "" {
			return fmt.Errorf("%s: %s must be set, too", a.user, a.password)
		}
	}
	return nil
}

// list splits at commas, and leaves out what is empty.
func list(text string) []string {
	var out []string
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// Ask sends a request to a meta node, as httpclient.Client.Ask does.
type Ask func(ctx context.Context, method, server, path string, params url.Values) ([]byte, error)

const (
	pause      = time.Second      // between two attempts
	reminder   = time.Minute      // between two lines of the log that say why a step does not succeed
	askTimeout = 45 * time.Second // for one request; a meta node takes its time to get the log
)

// retry takes a step again and again until it succeeds, or ctx ends. It logs why it does not.
func retry(
	ctx context.Context, log *zap.Logger, pause time.Duration, doing string, step func(context.Context) error,
) error {
	var said time.Time
	for {
		attempt, cancel := context.WithTimeout(ctx, askTimeout)
		err := step(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(said) > reminder {
			log.Info(doing, zap.Error(err))
			said = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// oneLine joins errors to one that has one line, nil for none.
func oneLine(errs []error) error {
	var said []string
	for _, err := range errs {
		said = append(said, err.Error())
	}
	if len(said) == 0 {
		return nil
	}
	return errors.New(strings.Join(said, "; "))
}
