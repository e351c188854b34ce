package main

import (
	"bytes"
	"os/exec"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
)

// sbom lists the modules that the programs are made of, with their licenses, in the format of CycloneDX.
func (r release) sbom() ([]byte, error) {
	cmd := exec.Command("go", "tool", "-modfile=tools/go.mod", "cyclonedx-gomod", "mod",
		"-json", "-licenses", "-std", "-noserial", "-notimestamp", "-output", "-", ".")
	cmd.Dir = r.root
	listed, err := output(cmd)
	if err != nil {
		return nil, err
	}
	var bom cyclonedx.BOM
	if err := cyclonedx.NewBOMDecoder(bytes.NewReader(listed), cyclonedx.BOMFileFormatJSON).Decode(&bom); err != nil {
		return nil, err
	}
	bom.Metadata.Component.Version = r.version
	// The tool has checksums of itself, which depend on the machine that built it.
	for i := range *bom.Metadata.Tools.Tools {
		(*bom.Metadata.Tools.Tools)[i].Hashes = nil
	}
	var b bytes.Buffer
	err = cyclonedx.NewBOMEncoder(&b, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(&bom)
	return b.Bytes(), err
}
