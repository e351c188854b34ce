package server

import (
	"net/http"
	"net/http/httptest"
	"testing"

	emeta "github.com/influxdata/influxdb/services/meta"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"concord/internal/cluster"
	"concord/internal/meta/password"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBusyMetaNodeSaysSo(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	state := cluster.NewState()
	state.Data.Users = []emeta.UserInfo{{Name: "paul", Hash: string(hash)}}
	passwords := password.NewChecker()
	g := &guard{auth: true, secret: "secret", state: func() *cluster.State { return state }, passwords: passwords}
	srv := httptest.NewServer(g.admits(read, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer srv.Close()
	for _, step := range []struct {
		full           bool
		user, password string
		code           int
	}{
		{false, "paul", "wrong", 401},
		{false, "nobody", "wrong", 401},
		{false, "paul", "right", 200},
		{true, "paul", "right", 200},
		{true, "paul", "wrong", 503},
		{true, "nobody", "wrong", 503},
	} {
		for full := !step.full; !full; {
			_, err := passwords.Reserve()
			full = err != nil
		}
		req, err := http.NewRequest("GET", srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(step.user, step.password)
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != step.code || (resp.Header.Get("Retry-After") != "") != (step.code == 503) {
			t.Errorf("%s:%s, full is %v: %s, want %d", step.user, step.password, step.full, resp.Status, step.code)
		}
	}
}
