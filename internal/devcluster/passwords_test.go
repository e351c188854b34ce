package devcluster_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/meta/metaconfig"
)

// TestFloodOfWrongPasswords sends more wrong passwords to a node than it compares at the same time, for a user that
// there is and for users that there are not. Who has logged in before is answered at once.
func TestFloodOfWrongPasswords(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), 7) // an eighth of the usual cost: the test is short
	if err != nil {
		t.Fatal(err)
	}
	ctx, c := mustStartOptions(t, devcluster.Options{
		DataNodes:  1,
		MetaConfig: func(c *metaconfig.Config) { c.Meta.AuthEnabled, c.Meta.InternalSharedSecret = true, testSecret },
		DataConfig: func(c *datanode.Config) {
			c.HTTPD.AuthEnabled, c.Meta.AuthEnabled, c.Meta.InternalSharedSecret = true, true, testSecret
		},
	})
	user := fmt.Sprintf(`{"action":"create","user":{"name":"root","hash":%q,"permissions":{"":[%s]}}}`, hash,
		`"ViewAdmin","ViewChronograf","CreateDatabase","CreateUserAndRole","AddRemoveNode","DropDatabase","DropData",`+
			`"ReadData","WriteData","Rebalance","ManageShard","ManageContinuousQuery","ManageQuery",`+
			`"ManageSubscription","Monitor","CopyShard"`)
	token, err := testSecret.Token(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, method, url, name, given, body string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return 0, err
		}
		if name == "" {
			req.Header.Set("Authorization", "Bearer "+token)
		} else {
			req.SetBasicAuth(name, given)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	if code, err := ask(ctx, "POST", "http://"+c.Meta.HTTPAddr()+"/user", "", "", user); err != nil || code != 200 {
		t.Fatal(code, err)
	}
	for _, tt := range []struct {
		name, url string
		busy      int
	}{
		{"a data node", "http://" + c.Data[0].HTTPAddr() + "/query?q=SHOW+DATABASES", 401},
		{"a meta node", "http://" + c.Meta.HTTPAddr() + "/status", 503},
	} {
		if code, err := ask(ctx, "GET", tt.url, "root", "pw", ""); err != nil || code != 200 {
			t.Fatalf("%s: %d %v", tt.name, code, err)
		}
		const flood = 200
		var mu sync.Mutex
		codes := make(map[int]int)
		var calls sync.WaitGroup
		began := time.Now()
		for i := range flood {
			calls.Go(func() {
				name := "root"
				if i%2 == 0 {
					name = fmt.Sprint("nobody", i)
				}
				code, err := ask(ctx, "GET", tt.url, name, "wrong", "")
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				codes[code]++
			})
		}
		worst := time.Duration(0)
		for range 20 {
			at := time.Now()
			if code, err := ask(ctx, "GET", tt.url, "root", "pw", ""); err != nil || code != 200 {
				t.Errorf("%s: a right password beside wrong ones: %d %v", tt.name, code, err)
			}
			worst = max(worst, time.Since(at))
		}
		calls.Wait()
		t.Logf("%s: %v, in %s; the right one took %s at most", tt.name, codes, time.Since(began), worst)
		if worst > 10*time.Second {
			t.Errorf("%s: a right password took %s", tt.name, worst)
		}
		if codes[401]+codes[503] != flood || codes[tt.busy] < flood/4 {
			t.Errorf("%s: the flood got %v", tt.name, codes)
		}
	}
}
