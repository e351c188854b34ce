package reads

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnswersAreParsed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, body string
		status     int
		warnings   []string
		err        string
	}{
		{
			"well", `{"results":[{"statement_id":0,"series":[{"name":"m","columns":["time","v"],"values":[[1,2]]}]}]}`,
			200, nil,
			"",
		},
		{"empty", `{"results":[{"statement_id":0}]}`, 200, nil, ""},
		{
			"warning",
			`{"results":[{"statement_id":0,"messages":[{"level":"warning","text":"w"},{"level":"info","text":"i"}]}]}`,
			200,
			[]string{"w"}, "",
		},
		{"error of a statement", `{"results":[{"statement_id":0,"error":"e"}]}`, 200, nil, "e"},
		{"error", `{"error":"e"}`, 400, nil, "e"},
		{"partial", `{"results":[{"statement_id":0,"partial":true}]}`, 200, nil, "the answer is partial"},
		{"no results", `{}`, 200, nil, "status 200: {}"},
		{"no JSON", `no`, 502, nil, "status 502: no"},
	} {
		s, err := parse(tt.status, []byte(tt.body))
		if err != nil || s.err != tt.err || !cmp.Equal(s.warnings, tt.warnings) {
			t.Errorf("%s: %+v, %v", tt.name, s, err)
		}
	}
}

func TestRowsAreRead(t *testing.T) {
	t.Parallel()
	opt := cmp.AllowUnexported(answer{}, cell{}, tally{})
	for _, tt := range []struct {
		form         form
		series, rows string
		want         answer
	}{
		{raw, "", `{"values":[[1,2,"a"],[1,3,"b"]]}`, answer{points: map[cell]int64{{"a", 1}: 2, {"b", 1}: 3}}},
		{raw, "a", `{"values":[[1,2],[2,3]]}`, answer{points: map[cell]int64{{"a", 1}: 2, {"a", 2}: 3}}},
		{total, "", `{"values":[[0,2,9]]}`, answer{cells: map[cell]tally{{}: {2, 9}}}},
		{nested, "", `{"values":[[0,2,9]]}`, answer{cells: map[cell]tally{{}: {2, 9}}}},
		{total, "a", `{"values":[[0,2,null]]}`, answer{cells: map[cell]tally{{}: {2, 0}}}},
		{bySeries, "", `{"tags":{"s":"a"},"values":[[0,2,9]]},{"tags":{"s":"b"},"values":[[0,1,5]]}`,
			answer{cells: map[cell]tally{{"a", 0}: {2, 9}, {"b", 0}: {1, 5}}}},
		{byTime, "a", `{"values":[[10,2,9],[20,0,null]]}`, answer{cells: map[cell]tally{{"", 10}: {2, 9}}}},
	} {
		s, err := parse(200, []byte(`{"results":[{"series":[`+tt.rows+`]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		got, err := asked{form: tt.form, series: tt.series}.read(s)
		if tt.want.points == nil {
			tt.want.points = map[cell]int64{}
		}
		if tt.want.cells == nil {
			tt.want.cells = map[cell]tally{}
		}
		if d := cmp.Diff(tt.want, got, opt); d != "" || err != nil {
			t.Errorf("%v of %q: %v\n%s", tt.form, tt.series, err, d)
		}
	}
	for _, bad := range []string{`[[1]]`, `[[1,{}]]`, `[[1,2.5]]`, `[[1,2],[1,3]]`} {
		s, err := parse(200, []byte(`{"results":[{"series":[{"values":`+bad+`}]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (asked{form: raw, series: "a"}).read(s); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

func TestSortsOfErrorsLeaveNumbersOut(t *testing.T) {
	t.Parallel()
	if a, b := sortOf("shard 12 of 127.0.0.1:8088 is away"), sortOf("shard 7 of 127.0.0.1:18088 is away"); a != b ||
		a != "shard N of ADDR is away" {
		t.Errorf("%q, %q", a, b)
	}
}
