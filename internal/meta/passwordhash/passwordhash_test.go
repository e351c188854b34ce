package passwordhash

import "testing"

// The hashes of PBKDF2 were made with Python's hashlib.
func TestHashesOfAllKindsAreCompared(t *testing.T) {
	t.Parallel()
	hashes := []string{
		"$pbkdf2-sha256$29000$MDEyMzQ1Njc4OWFiY2RlZg$fcQQ.snipi/imPtNCdr1w6VolvnZWNbAK4/LPubD1to",
		"$pbkdf2-sha512$25000$MDEyMzQ1Njc4OWFiY2RlZg$ZnevmiIsZIZ/Bx5AICdlQXcSfFljO.OIt5O2X.BS2pZS/5AeiYtWhyfFi96qkmFfzxLu1Yil.3Pzf4mrmRCOpQ",
	}
	for _, k := range []Kind{Bcrypt, SHA256, SHA512} {
		h, err := k.Of("pw")
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, h)
	}
	for _, h := range hashes {
		if err := Check(h); err != nil || !Match(h, "pw") || Match(h, "pW") || Match(h, "") {
			t.Errorf("%s: %v", h, err)
		}
	}
	for _, bad := range []string{"", "pw", "$pbkdf2-sha1$1$aaaa$aaaa", "$pbkdf2-sha256$0$aaaa$aaaa", hashes[0][:60]} {
		if Check(bad) == nil || Match(bad, "pw") {
			t.Errorf("%q is taken for a hash", bad)
		}
	}
	if Bcrypt.Validate(true) == nil || SHA256.Validate(true) != nil || Kind("md5").Validate(false) == nil {
		t.Error("the setting is not checked")
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("$pbkdf2-sha256$1$aaaa$aaaa")
	f.Fuzz(func(t *testing.T, hash string) {
		if p, err := parse(hash); err == nil && p.rounds > 1000 {
			return
		}
		if len(hash) > 0 && hash[0] == '$' && Check(hash) != nil && Match(hash, "pw") {
			t.Errorf("%q", hash)
		}
	})
}
