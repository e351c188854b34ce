//go:build !race

package passwordhash

import "golang.org/x/crypto/bcrypt"

// bcryptCost is that of new hashes: InfluxDB's.
const bcryptCost = bcrypt.DefaultCost
