package trust

import (
	"errors"
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
