//go:build race

package passwordhash

import "golang.org/x/crypto/bcrypt"

// bcryptCost is that of new hashes. Under the race detector one of the usual cost takes a second, and tests make many.
const bcryptCost = bcrypt.MinCost
