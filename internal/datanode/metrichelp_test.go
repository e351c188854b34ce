package datanode

import (
	"os"
	"strings"
	"testing"
)

func TestEachDescribedStatisticIsDocumented(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../docs/statistics.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for statistic, fields := range descriptions {
		for field := range fields {
			if !strings.Contains(doc, "`"+statistic+"`") || !strings.Contains(doc, "`"+field+"`") {
				t.Errorf("docs/statistics.md does not have %s of %s", field, statistic)
			}
		}
	}
}

func TestHelpTextsAreSentences(t *testing.T) {
	t.Parallel()
	for _, all := range []map[string]map[string]described{descriptions, engineDescriptions} {
		for statistic, fields := range all {
			for field, d := range fields {
				if !strings.HasSuffix(d.help, ".") {
					t.Errorf("the help text of %s of %s is no sentence: %q", field, statistic, d.help)
				}
			}
		}
	}
}
