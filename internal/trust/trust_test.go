package trust

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v4"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	const secret = Secret("s3cret")
	now := time.Now()
	at := func(d time.Duration) *jwt.NumericDate { return jwt.NewNumericDate(now.Add(d)) }
	for _, tt := range []struct {
		name   string
		method jwt.SigningMethod
		key    any
		claims jwt.RegisteredClaims
		ok     bool
	}{
		{
			"good", jwt.SigningMethodHS256, []byte(secret),
			jwt.RegisteredClaims{IssuedAt: at(0), ExpiresAt: at(time.Minute)},
			true,
		},
		{
			"of a node whose clock is ahead", jwt.SigningMethodHS256, []byte(secret),
			jwt.RegisteredClaims{IssuedAt: at(5 * time.Second), ExpiresAt: at(time.Minute)}, true,
		},
		{
			"without the time it was made", jwt.SigningMethodHS256, []byte(secret),
			jwt.RegisteredClaims{ExpiresAt: at(time.Minute)}, true,
		},
		{
			"expired", jwt.SigningMethodHS256, []byte(secret),
			jwt.RegisteredClaims{IssuedAt: at(-time.Hour), ExpiresAt: at(-2 * time.Second)}, false,
		},
		{
			"not yet", jwt.SigningMethodHS256, []byte(secret),
			jwt.RegisteredClaims{NotBefore: at(time.Minute), ExpiresAt: at(time.Hour)}, false,
		},
		{"without an end", jwt.SigningMethodHS256, []byte(secret), jwt.RegisteredClaims{IssuedAt: at(0)}, false},
		{
			"another secret", jwt.SigningMethodHS256, []byte("other"), jwt.RegisteredClaims{ExpiresAt: at(time.Minute)},
			false,
		},
		{
			"another method", jwt.SigningMethodHS512, []byte(secret), jwt.RegisteredClaims{ExpiresAt: at(time.Minute)},
			false,
		},
		{
			"unsigned", jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType,
			jwt.RegisteredClaims{ExpiresAt: at(time.Minute)}, false,
		},
	} {
		token, err := jwt.NewWithClaims(tt.method, tt.claims).SignedString(tt.key)
		if err != nil {
			t.Fatal(err)
		}
		if err := secret.Verify(token); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// Who has the secret and another time is told so: nobody looks for a wrong secret then.
func TestWrongClockIsNotAWrongSecret(t *testing.T) {
	t.Parallel()
	const secret = Secret("s3cret")
	late, err := secret.Token(-3 * time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := secret.Verify(late); !errors.Is(err, ErrClocks) || !strings.Contains(err.Error(), "ended 3m") {
		t.Errorf("a token that ended: %v", err)
	}
	if err := Secret("other").Verify(late); !errors.Is(err, ErrRefused) {
		t.Errorf("of another secret: %v", err)
	}
}

// The answer of a node that refuses a token says how far its clock is ahead, also when it comes as text.
func TestRefusalSaysHowFarAClockIsAhead(t *testing.T) {
	t.Parallel()
	const secret = Secret("s3cret")
	for _, ahead := range []time.Duration{90 * time.Second, time.Hour, 72 * time.Hour} {
		for _, age := range []time.Duration{0, tokenLife / 2} { // of the token when it is used
			token, err := secret.Token(tokenLife - age - ahead)
			if err != nil {
				t.Fatal(err)
			}
			refused := fmt.Errorf("node a:1 answers: %v; and more", secret.Verify(token))
			got, margin, ok := AheadBy(refused)
			if off := (got - ahead).Abs(); !ok || off > margin || margin > tokenLife/3 {
				t.Errorf("%v ahead: %v, wrong by %v at most, %v; %v", ahead, got, margin, ok, refused)
			}
			if !errors.Is(RefusalIn(refused), ErrClocks) {
				t.Errorf("%v is no refusal for clocks", refused)
			}
		}
	}
	for _, err := range []error{nil, errors.New("away"), ErrRefused, fmt.Errorf("%w (the token ended)", ErrClocks)} {
		if ahead, _, ok := AheadBy(err); ok {
			t.Errorf("%v is %v ahead", err, ahead)
		}
	}
	if err := fmt.Errorf("node a:1: %v", ErrRefused); !errors.Is(RefusalIn(err), ErrRefused) {
		t.Errorf("%v is no refusal", err)
	}
}

// A node whose clock was set has a good token at once, also when its clock was behind.
func TestTokenIsOfTheTimeThatTheClockWasSetTo(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		real, wrong := time.Now(), off
		s := &Signer{Secret: "s3cret", now: func() time.Time { return real.Round(0).Add(wrong) }}
		first, err := s.Token()
		if err != nil {
			t.Fatal(err)
		}
		wrong = 0
		second, err := s.Token()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Secret.Verify(second); err != nil {
			t.Errorf("the clock was off by %v: %v", off, err)
		}
		if (first == second) != (off == 0) {
			t.Errorf("the clock was off by %v, and the token is new: %v", off, first != second)
		}
	}
}
