package compare

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Form is a way of asking over HTTP.
type Form struct {
	Name   string
	Params url.Values
	Accept string
}

// Forms are those that clients use.
var Forms = []Form{
	{Name: "json"},
	{Name: "epoch ns", Params: url.Values{"epoch": {"ns"}}},
	{Name: "epoch m, pretty", Params: url.Values{"epoch": {"m"}, "pretty": {"true"}}},
	{Name: "chunked", Params: url.Values{"chunked": {"true"}, "chunk_size": {"7"}}},
	{Name: "csv", Accept: "application/csv"},
	{Name: "chunked csv", Params: url.Values{"chunked": {"true"}, "epoch": {"s"}}, Accept: "text/csv"},
}

// As returns the form with a user's name and password.
func (f Form) As(user, password string) Form {
	params := url.Values{"u": {user}, "p": {password}}
	for k, v := range f.Params {
		params[k] = v
	}
	f.Params = params
	return f
}

// Ask runs a statement and returns the whole answer as text, status first.
func Ask(ctx context.Context, addr, db, statement string, f Form) (string, error) {
	v := url.Values{"db": {db}}
	for k, p := range f.Params {
		v[k] = p
	}
	body := strings.NewReader(url.Values{"q": {statement}}.Encode())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/query?"+v.Encode(), body)
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if f.Accept != "" {
		req.Header.Set("Accept", f.Accept)
	}
	return text(req)
}

// Write sends line protocol.
func Write(ctx context.Context, addr, db, lines string, f Form) error {
	v := url.Values{"db": {db}, "precision": {"ns"}, "consistency": {"all"}}
	for k, p := range f.Params {
		v[k] = p
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/write?"+v.Encode(),
		strings.NewReader(lines))
	if err != nil {
		return err
	}
	answer, err := text(req)
	if err == nil && !strings.HasPrefix(answer, "204 ") {
		err = fmt.Errorf("write to %s: %s", addr, answer)
	}
	return err
}

func text(req *http.Request) (string, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s\n%s", resp.StatusCode, resp.Header.Get("Content-Type"), b), err
}

var csvError = regexp.MustCompile(`(?s)\nerror\n(.*)$`)

// CSVError splits the error of a statement from the end of an answer as CSV. Told is its text as JSON has it.
func CSVError(answer string) (rows, told string, ok bool) {
	at := csvError.FindStringSubmatchIndex(answer)
	if at == nil {
		return answer, "", false
	}
	text, err := csv.NewReader(strings.NewReader(answer[at[2]:])).Read()
	if err != nil || len(text) != 1 {
		return answer, "", false
	}
	b, err := json.Marshal(text[0])
	rows = strings.TrimSuffix(answer[:at[0]], "\n") + "\n" // without the empty line after rows
	return rows, string(b), err == nil
}

var number = regexp.MustCompile(`-?\d+(\.\d+)?([eE][-+]?\d+)?`)

// tolerance is how much two floats of equal answers may differ, relatively:
// several shards are summed in another order than one.
const tolerance = 1e-12

// Same tells whether two answers are equal: their text, but for the last
// digits of floats. Integers must be the same to the last digit.
func Same(a, b string) bool {
	if a == b {
		return true
	}
	na, nb := number.FindAllStringIndex(a, -1), number.FindAllStringIndex(b, -1)
	if len(na) != len(nb) {
		return false
	}
	ea, eb := 0, 0
	for i := range na {
		if a[ea:na[i][0]] != b[eb:nb[i][0]] || !sameNumber(a[na[i][0]:na[i][1]], b[nb[i][0]:nb[i][1]]) {
			return false
		}
		ea, eb = na[i][1], nb[i][1]
	}
	return a[ea:] == b[eb:]
}

func sameNumber(a, b string) bool {
	if a == b {
		return true
	}
	if !strings.ContainsAny(a+b, ".eE") {
		return false
	}
	x, errx := strconv.ParseFloat(a, 64)
	y, erry := strconv.ParseFloat(b, 64)
	return errx == nil && erry == nil && math.Abs(x-y) <= tolerance*max(math.Abs(x), math.Abs(y))
}
