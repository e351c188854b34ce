//go:build !race

package passwordhash

import (
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestHashesOfBcryptHaveTheCostOfInfluxDB(t *testing.T) {
	t.Parallel()
	hash, err := Bcrypt.Of("pw")
	if err != nil {
		t.Fatal(err)
	}
	if cost, err := bcrypt.Cost([]byte(hash)); err != nil || cost != bcrypt.DefaultCost {
		t.Error(cost, err)
	}
}
