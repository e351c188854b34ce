// Package passwordhash makes hashes of passwords, and compares passwords with them. It imports nothing of the engine,
// so that the configuration of a node can name a kind of hash.
package passwordhash

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

// Kind is how new passwords are hashed: the setting password-hash. Hashes of all three kinds are compared, whatever it
// is.
//
// A hash of PBKDF2 is written as passlib writes it, and with its costs, which InfluxDB Enterprise logs as its own:
//
//	$pbkdf2-sha256$29000$salt$key
//
// Salt and key are base64 without padding and with a dot in place of the plus sign.
type Kind string

// The values of password-hash.
const (
	Bcrypt Kind = "bcrypt"
	SHA256 Kind = "pbkdf2-sha256"
	SHA512 Kind = "pbkdf2-sha512"
)

const (
	saltBytes = 16
	maxRounds = 10_000_000 // seconds of work: more than that is an attack, not a hash
)

// digest is what PBKDF2 is computed with.
type digest struct {
	rounds int // of new hashes
	bytes  int // of a key
	new    func() hash.Hash
}

var digests = map[Kind]digest{
	SHA256: {29000, sha256.Size, sha256.New},
	SHA512: {25000, sha512.Size, sha512.New},
}

var encoding = base64.NewEncoding("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789./").
	WithPadding(base64.NoPadding)

// Validate returns what is wrong with the setting. fips is the setting ensure-fips.
func (k Kind) Validate(fips bool) error {
	switch k {
	case SHA256, SHA512:
		return nil
	case Bcrypt:
		if fips {
			return errors.New("password-hash: bcrypt is not FIPS-ready, and ensure-fips is true: " +
				"set pbkdf2-sha256 or pbkdf2-sha512")
		}
		return nil
	}
	return fmt.Errorf("password-hash: %q is none of bcrypt, pbkdf2-sha256 and pbkdf2-sha512", string(k))
}

// Of returns the hash of a password. The zero Kind is bcrypt.
func (k Kind) Of(password string) (string, error) {
	d, ok := digests[k]
	if !ok {
		b, err := bcrypt.GenerateFromPassword([]byte(password), bcryptCost)
		return string(b), err
	}
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	key, err := pbkdf2.Key(d.new, password, salt, d.rounds, d.bytes)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("$%s$%d$%s$%s", k, d.rounds, encoding.EncodeToString(salt), encoding.EncodeToString(key)), nil
}

// errHash is for what no version of InfluxDB makes of a password.
var errHash = errors.New("the hash must be one of bcrypt ($2a$…), pbkdf2-sha256 ($pbkdf2-sha256$…) or " +
	"pbkdf2-sha512 ($pbkdf2-sha512$…)")

// Check returns why no password can be compared with a hash.
func Check(hash string) error {
	if strings.HasPrefix(hash, "$pbkdf2") {
		_, err := parse(hash)
		return err
	}
	if _, err := bcrypt.Cost([]byte(hash)); err != nil {
		return errHash
	}
	return nil
}

// Match reports whether a hash is one of the password.
func Match(hash, password string) bool {
	if !strings.HasPrefix(hash, "$pbkdf2") {
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
	}
	p, err := parse(hash)
	if err != nil {
		return false
	}
	key, err := pbkdf2.Key(p.digest.new, password, p.salt, p.rounds, len(p.key))
	return err == nil && subtle.ConstantTimeCompare(key, p.key) == 1
}

// parsed is a hash of PBKDF2 in its parts.
type parsed struct {
	digest    digest
	rounds    int
	salt, key []byte
}

func parse(hash string) (p parsed, err error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 5 || parts[0] != "" {
		return p, errHash
	}
	ok := false
	if p.digest, ok = digests[Kind(parts[1])]; !ok {
		return p, errHash
	}
	if p.rounds, err = strconv.Atoi(parts[2]); err != nil || p.rounds < 1 || p.rounds > maxRounds {
		return p, errHash
	}
	if p.salt, err = decode(parts[3]); err != nil || len(p.salt) == 0 {
		return p, errHash
	}
	if p.key, err = decode(parts[4]); err != nil || len(p.key) != p.digest.bytes {
		return p, errHash
	}
	return p, nil
}

// decode also takes the usual alphabet of base64, with and without padding.
func decode(s string) ([]byte, error) {
	return encoding.DecodeString(strings.ReplaceAll(strings.TrimRight(s, "="), "+", "."))
}
