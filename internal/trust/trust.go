// Package trust decides who is let in: the settings of TLS between nodes, and the shared secret
// with which nodes prove to each other that they belong together.
package trust

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v4"
	itoml "github.com/influxdata/influxdb/toml"
)

// TLS are the settings of a listener of the cluster, and of the connections that
// this node makes to its likes.
type TLS struct {
	HTTPSEnabled     bool   `toml:"https-enabled" doc:"Speak TLS on this port, and to the same port of other nodes."`
	HTTPSCertificate string `toml:"https-certificate" doc:"PEM file with the certificate, and the private key unless that has its own file."`
	HTTPSPrivateKey  string `toml:"https-private-key" doc:"PEM file with the private key; empty when it is in the certificate's file."`
	HTTPSInsecureTLS bool   `toml:"https-insecure-tls" doc:"Do not verify the certificates of other nodes, when these are self-signed."`
	HTTPSCA          string `toml:"https-ca" doc:"PEM file with the CA of all nodes: only nodes that show a certificate from it may connect to the port of data nodes, or to Raft."`

	Protocol Protocol `toml:"-"` // of the section [tls]
}

// Protocol is the section [tls], for all listeners and connections of a node.
type Protocol struct {
	Ciphers            []string       `toml:"ciphers" doc:"Cipher suites that are accepted up to TLS 1.2, by their names in Go; those of TLS 1.3 cannot be chosen." show:"[\"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\"]"`
	MinVersion         string         `toml:"min-version" doc:"Lowest version of TLS: \"tls1.0\" to \"tls1.3\"; Go's when empty."`
	MaxVersion         string         `toml:"max-version" doc:"Highest version of TLS; Go's when empty."`
	AdvancedExpiration itoml.Duration `toml:"advanced-expiration" doc:"How long before a certificate expires the log warns of it."`
}

// NewProtocol returns the defaults.
func NewProtocol() Protocol { return Protocol{AdvancedExpiration: itoml.Duration(5 * 24 * time.Hour)} }

// Validate names the bad setting.
func (t TLS) Validate() error {
	if !t.HTTPSEnabled {
		return nil
	}
	if t.HTTPSCertificate == "" {
		return errors.New("https-enabled: needs https-certificate")
	}
	if t.HTTPSCA != "" && t.HTTPSInsecureTLS {
		return errors.New("https-insecure-tls: https-ca verifies certificates, give one of them")
	}
	return nil
}

// Secret is the secret that the nodes of a cluster share. The empty one lets everybody in.
type Secret string

// String keeps the secret out of logs and of anything that prints a configuration.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "<secret>"
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// tokenLife is how long a token of a node is good for.
const tokenLife = time.Minute

// ErrRefused is the answer to who cannot prove to belong here.
var ErrRefused = errors.New("the shared secret of the cluster is missing or wrong")

// ErrClocks is the answer to who has the secret and another time: a token is good for a minute, and used for half of
// it.
var ErrClocks = errors.New("the clocks of the two nodes differ by half a minute or more: set them, with NTP for " +
	"example")

// RefusalIn is ErrClocks or ErrRefused, whichever the text of an error has that another node answered with. It is nil
// for all other errors.
func RefusalIn(err error) error {
	for _, refusal := range []error{ErrClocks, ErrRefused} {
		if err != nil && strings.Contains(err.Error(), refusal.Error()) {
			return refusal
		}
	}
	return nil
}

// tokenEnded is what follows ErrClocks, with the time since the token ended.
const tokenEnded = "(the token ended %s ago by this node's clock)"

// AheadBy is how far the clock of a node is ahead that refused a token of a Signer with ErrClocks, and how wrong that
// may be. err is what this node got as an answer. ok is false for all other errors.
func AheadBy(err error) (ahead, margin time.Duration, ok bool) {
	if !errors.Is(RefusalIn(err), ErrClocks) {
		return 0, 0, false
	}
	before, after, _ := strings.Cut(tokenEnded, "%s")
	_, text, _ := strings.Cut(err.Error(), before)
	text, _, _ = strings.Cut(text, after)
	late, bad := time.ParseDuration(text)
	// The token had been used for up to half of its life. Times in tokens, and late, are in seconds.
	margin = tokenLife/4 + 2*time.Second
	return late + tokenLife*3/4, margin, bad == nil
}

// userClaims are those of a token of a user, as the engine's HTTP API reads them.
type userClaims struct {
	jwt.RegisteredClaims
	Username string `json:"username,omitempty"`
}

// Token signs a token that is good for life from now.
func (s Secret) Token(life time.Duration) (string, error) { return s.UserToken("", life) }

// UserToken is Token of a user, who may be empty. What it allows is decided by who checks it.
func (s Secret) UserToken(user string, life time.Duration) (string, error) {
	return s.userToken(user, life, time.Now())
}

// userToken is UserToken at a time.
func (s Secret) userToken(user string, life time.Duration, now time.Time) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, userClaims{
		Username: user,
		RegisteredClaims: jwt.RegisteredClaims{
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(life)),
		},
	})
	signed, err := t.SignedString([]byte(s))
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return signed, nil
}

// User returns the user that a token names in its claim username. It is not ok for one that was signed with another
// secret, that has ended or has no end, or that names nobody.
func (s Secret) User(token string) (name string, ok bool) {
	var claims struct {
		jwt.RegisteredClaims
		Username string `json:"username"`
	}
	p := jwt.NewParser(jwt.WithValidMethods([]string{"HS256", "HS384", "HS512"}))
	t, err := p.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return []byte(s), nil })
	if s == "" || err != nil || !t.Valid || claims.ExpiresAt == nil || claims.Username == "" {
		return "", false
	}
	return claims.Username, true
}

// Verify returns ErrRefused unless token was signed with the secret, and ErrClocks when it was but is out of time.
func (s Secret) Verify(token string) error {
	if s == "" {
		return nil
	}
	var claims jwt.RegisteredClaims
	// The library refuses what was issued in the future, by a node whose clock is ahead.
	p := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithoutClaimsValidation())
	t, err := p.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return []byte(s), nil })
	now := time.Now()
	// A token without an end would be good for ever.
	if err != nil || !t.Valid || claims.ExpiresAt == nil || !claims.VerifyNotBefore(now, false) {
		return ErrRefused
	}
	if late := now.Sub(claims.ExpiresAt.Time); late >= 0 {
		return fmt.Errorf("%w "+tokenEnded, ErrClocks, late.Round(time.Second))
	}
	return nil
}

// Signer makes tokens, each used for half of its life. A new one is made when the clock was set, too.
type Signer struct {
	Secret Secret

	mu    sync.Mutex
	token string
	made  time.Time        // by the wall clock, which others compare a token with
	now   func() time.Time // nil for time.Now
}

// Token returns a token, and none without a secret.
func (s *Signer) Token() (string, error) {
	if s.Secret == "" {
		return "", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now
	if s.now != nil {
		now = s.now
	}
	wall := now().Round(0) // without the monotonic clock, which does not jump
	if age := wall.Sub(s.made); s.token == "" || age < 0 || age > tokenLife/2 {
		t, err := s.Secret.userToken("", tokenLife, wall)
		if err != nil {
			return "", err
		}
		s.token, s.made = t, wall
	}
	return s.token, nil
}
