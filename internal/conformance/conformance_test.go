package conformance

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

var (
	heading = regexp.MustCompile(`^## (.+)$`)
	row     = regexp.MustCompile(`^\| ([\d.]+) \| (.+) \| (.+) \| (.+) \|$`)
	keyword = regexp.MustCompile(`\b(MUST NOT|MUST|SHOULD NOT|SHOULD|REQUIRED|RECOMMENDED)\b`)
	file    = regexp.MustCompile("`([\\w/.]+/[\\w/.]+)`")
	code    = regexp.MustCompile("`([\\w/]+\\.go)` (\\w+)")
	test    = regexp.MustCompile("`([\\w/]+_test\\.go)` ((?:Test|Fuzz)\\w+)")
	link    = regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
)

// reasons are what may stand in the place of a test.
var reasons = []string{"*by construction*: ", "*does not apply*: ", "*see below*: ", "**not met**: ", "**not built yet**: "}

// demands is how often each section of an RFC has one of the keywords of RFC 2119, its Section 2 and the references aside.
var demands = map[string]map[string]int{
	"RFC 8547": {"4.1": 5, "4.2": 12, "4.3": 3, "4.4": 6, "4.5": 2, "4.6": 11, "4.7": 14, "4.8": 2, "5": 13, "5.1": 14,
		"8.6": 1, "10": 4, "11": 4},
	"RFC 8548": {"3.2": 5, "3.3": 6, "3.5": 26, "3.6": 6, "3.7": 4, "3.8": 8, "3.9": 3, "4.1": 6, "4.2": 2, "4.2.1": 2,
		"5": 9, "6": 4, "8": 6, "8.3": 2},
}

// TestConformance looks for every file, function and test that docs/conformance.md names, and for every demand of the RFCs.
func TestConformance(t *testing.T) {
	found := make(map[string]map[string]int)
	var rfc string
	for line := range strings.Lines(read(t, "docs/conformance.md")) {
		line = strings.TrimSpace(line)
		if m := heading.FindStringSubmatch(line); m != nil {
			rfc = m[1]
			found[rfc] = make(map[string]int)
		}
		m := row.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "| Section |") && !strings.HasPrefix(line, "|---") {
				t.Errorf("not a row of four columns: %s", line)
			}
			continue
		}
		found[rfc][m[1]] += len(keyword.FindAllString(m[2], -1))
		checkRow(t, rfc+", "+m[1]+": "+m[2], m[3], m[4])
	}
	for name, sections := range demands {
		if !maps.Equal(found[name], sections) {
			t.Errorf("%s: the rows have %v demands, the RFC %v", name, found[name], sections)
		}
	}
}

func checkRow(t *testing.T, what, where, how string) {
	for _, f := range file.FindAllStringSubmatch(where+how, -1) {
		if _, err := os.Stat(filepath.Join(root, f[1])); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	names := code.FindAllStringSubmatch(where, -1)
	for _, x := range names {
		if !regexp.MustCompile(`(?m)^(func (\([^)]*\) )?|type )` + x[2] + `\b`).MatchString(read(t, x[1])) {
			t.Errorf("%s: no %s in %s", what, x[2], x[1])
		}
	}
	tests := test.FindAllStringSubmatch(how, -1)
	for _, x := range tests {
		if !strings.Contains(read(t, x[1]), "\nfunc "+x[2]+"(") {
			t.Errorf("%s: no %s in %s", what, x[2], x[1])
		}
	}
	reason := slices.ContainsFunc(reasons, func(r string) bool { return strings.HasPrefix(how, r) })
	if len(tests) == 0 && !reason {
		t.Errorf("%s: neither a test nor a reason: %s", what, how)
	}
	if len(names) == 0 && (where != "—" || !reason) {
		t.Errorf("%s: no code, and no reason why: %s", what, where)
	}
}

// TestLinks follows the links between the pages of the documentation.
func TestLinks(t *testing.T) {
	pages := []string{"README.md"}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			rel, _ := filepath.Rel(root, path)
			pages = append(pages, rel)
		}
		return err
	})
	if err != nil || len(pages) < 5 {
		t.Fatalf("%v, %d pages", err, len(pages))
	}
	for _, page := range pages {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
