package wire

// User is a user in the answer of GET /user and in POST /user. There is no hash in answers.
type User struct {
	Name     string `json:"name"`
	Password string `json:"password,omitempty"` // in requests
	// in requests that make a user, in place of the password
	Hash        string              `json:"hash,omitempty"`
	Permissions map[string][]string `json:"permissions,omitempty"` // by database; "" is for all, and for the cluster
}

// Users is the answer of GET /user.
type Users struct {
	Users []User `json:"users,omitempty"`
}

// Role is a role in the answer of GET /role and in POST /role.
type Role struct {
	Name        string              `json:"name"`
	NewName     string              `json:"newName,omitempty"` // in requests that rename it
	Users       []string            `json:"users,omitempty"`
	Permissions map[string][]string `json:"permissions,omitempty"` // by database; "" is for all, and for the cluster
}

// Roles is the answer of GET /role.
type Roles struct {
	Roles []Role `json:"roles,omitempty"`
}

// ChangeUser is a POST /user. A user may be created with permissions.
type ChangeUser struct {
	Action string `json:"action"` // create, delete, change-password, add-permissions or remove-permissions
	User   User   `json:"user"`
}

// ChangeRole is a POST /role. A role may be created with users and permissions.
type ChangeRole struct {
	// Action is create, delete, change-name, add-users, remove-users, add-permissions or remove-permissions.
	Action string `json:"action"`
	Role   Role   `json:"role"`
}
