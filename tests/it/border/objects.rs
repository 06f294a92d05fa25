//! Objects that are sealed at rest: read in plaintext coordinates, a few frames at a time, all of one version; written sealed.

use tidegate::protect::keys::Direction;

use super::objects_fixture::{Lake, MARKER, write};

const L: usize = 32 * 1024;

fn plain(length: usize) -> Vec<u8> {
    let text = |index: usize| u8::try_from((index * 31 + index / 251) % 251).unwrap();
    let mut bytes: Vec<u8> = (0..length).map(text).collect();
    let mark = MARKER.len().min(length);
    bytes[..mark].copy_from_slice(&MARKER.as_bytes()[..mark]);
    bytes
}

fn holds(bytes: &[u8], marker: &[u8]) -> bool {
    bytes.windows(marker.len()).any(|window| window == marker)
}

#[tokio::test]
async fn what_is_written_lies_sealed_and_reads_as_it_was() {
    let lake = Lake::start().await;
    for length in [0, 1, L - 1, L, L + 1, 3 * L, 3 * L + 5] {
        let (plain, key) = (plain(length), format!("open/{length}"));
        lake.store.take();
        let sealed = lake.seal(&key, &plain).await;
        assert!(!holds(&sealed, MARKER.as_bytes()));
        let (opened, context) = lake.open(&sealed, "lake", Direction::Rest).await;
        assert!(opened == plain, "{length}");
        for (name, value) in [
            ("tenant", "acme"),
            ("recipient", "lake"),
            ("direction", "rest"),
            ("store", "lake"),
            ("bucket", "data"),
            ("key", &key),
            ("content-type", "text/csv"),
        ] {
            assert_eq!(context.get(name), Some(value), "{name}");
        }
        let (requests, _) = lake.store.take();
        let declared = requests[0].headers.iter().find(|(name, _)| name == "content-length").unwrap();
        assert_eq!(declared.1, sealed.len().to_string());

        let path = format!("/open/data/{key}");
        let answer = lake.get(&path, None).await;
        assert_eq!(
            (answer.status(), answer.header("content-length")),
            (200, Some(length.to_string())),
            "{length}"
        );
        assert!(answer.payload() == plain, "{length}");
        assert_eq!(answer.header("etag").as_deref(), Some("\"v1\""));
        assert_eq!(answer.header("content-type").as_deref(), Some("text/csv"));
        assert_eq!(answer.header("x-amz-meta-a").as_deref(), Some("1"));
        assert_eq!(answer.header("x-amz-checksum-crc32"), None, "that of the sealed bytes is nobody's");
        let head = lake.send(&format!("HEAD {path}"), b"").await;
        assert_eq!((head.status(), head.header("content-length")), (200, Some(length.to_string())));
        for (range, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=5-70000", 5..70_001),
            ("bytes=32767-32768", L - 1..L + 1),
            ("bytes=32768-65535", L..2 * L),
            ("bytes=-7", length.saturating_sub(7)..length),
            ("bytes=65536-", 2 * L..length),
        ] {
            let answer = lake.get(&path, Some(range)).await;
            let part = part.start..part.end.min(length);
            if part.is_empty() {
                assert_eq!(
                    (answer.status(), answer.code()),
                    (416, "range_not_satisfiable".into()),
                    "{length} {range}"
                );
                continue;
            }
            assert_eq!(answer.status(), 206, "{length} {range}: {answer:?}");
            let said = format!("bytes {}-{}/{length}", part.start, part.end - 1);
            assert_eq!(answer.header("content-range"), Some(said));
            assert!(answer.payload() == plain[part], "{length} {range}");
        }
    }
    lake.border.running.shutdown().await;
}

#[tokio::test]
async fn few_bytes_are_fetched_for_a_range() {
    let lake = Lake::start().await;
    // The final frame is as long as one can be; each read is the first one of its object.
    let plain = plain(153 * L - 1);
    for (version, start) in (1..).zip([0, L - 1, 76 * L - 1, plain.len() - 100_000]) {
        lake.seal("open/five", &plain).await;
        let version = format!("\"v{version}\"");
        lake.store.take();
        let answer =
            lake.get("/open/data/open/five", Some(&format!("bytes={start}-{}", start + 99_999))).await;
        assert!(answer.payload() == plain[start..start + 100_000]);
        let (requests, given) = lake.store.take();
        assert!(
            given <= 200_000 && requests.len() <= 3,
            "{start}: {given} bytes by {} requests",
            requests.len()
        );
        assert!(
            requests[1..].iter().all(|seen| seen.headers.contains(&("if-match".into(), version.clone())))
        );
        let records = lake.border.closed_records(&answer.record().unwrap()).await;
        let outcome = records.iter().find(|record| record["kind"] == "outcome").unwrap();
        assert_eq!(outcome["fetched_bytes"], given, "{outcome}");
        assert_eq!(
            (&outcome["object"]["key"], &outcome["object"]["direction"]),
            (&"t/acme/lake/rest/v1".into(), &"rest".into())
        );
        assert_eq!(records.iter().filter(|record| record["kind"] == "decision").count(), 1);
    }
    lake.border.running.shutdown().await;
}

#[tokio::test]
async fn several_ranges_and_conditions() {
    let lake = Lake::start().await;
    let plain = plain(L + 9);
    lake.seal("open/a", &plain).await;
    lake.store.take();
    let answer = lake.get("/open/data/open/a", Some("bytes=0-1,5-9")).await;
    assert_eq!(
        (answer.status(), answer.code(), lake.store.take().0.len()),
        (416, "range_not_satisfiable".into(), 0)
    );
    let ask = async |more: &str| lake.send(&format!("GET /open/data/open/a\n{more}"), b"").await;
    assert_eq!(ask("If-None-Match: \"v1\"").await.status(), 304);
    assert_eq!(ask("If-Match: \"v2\"").await.status(), 412);
    assert_eq!(ask("If-Match: \"v1\"\nRange: bytes=1-2").await.payload(), plain[1..3]);
    assert_eq!(ask("If-Range: \"v1\"\nRange: bytes=1-2").await.payload(), plain[1..3]);
    assert!(
        ask("If-Range: \"v0\"\nRange: bytes=1-2").await.payload() == plain,
        "another version is read whole"
    );
    assert_eq!(lake.get("/open/data/open/none", None).await.status(), 404);
    lake.border.running.shutdown().await;
}

/// An object that is written anew between any two reads is a refusal, whether or not the store knows conditions.
#[tokio::test]
async fn two_versions_are_never_mixed() {
    let lake = Lake::start().await;
    let plain = plain(3 * L + 5);
    let (first, second) = (lake.seal("open/a", &plain).await, lake.seal("open/a", &plain).await);
    assert_ne!(first, second);
    for deaf in [false, true] {
        if deaf {
            lake.store.deaf();
        }
        for turn in [1, 2] {
            let mut newer = Some(first.clone());
            lake.store.between(move |answered, objects| {
                if answered == turn
                    && let Some(newer) = newer.take()
                {
                    write(objects, "open/a", newer.into());
                }
            });
            let answer = lake.get("/open/data/open/a", Some("bytes=0-70000")).await;
            assert_eq!(
                (answer.status(), answer.code()),
                (409, "object_changed".into()),
                "{turn}: {answer:?}"
            );
        }
    }
    lake.store.between(|answered, objects| {
        if answered == 1 {
            objects.remove("open/a");
        }
    });
    assert_eq!(lake.get("/open/data/open/a", None).await.code(), "object_changed");
    lake.border.running.shutdown().await;
}

#[tokio::test]
async fn what_is_no_message_of_the_dataset_is_not_believed() {
    let lake = Lake::start().await;
    let plain = plain(2 * L + 100);
    let sealed = lake.seal("open/a", &plain).await;
    let header = sealed.len() - 2 * (L + 32) - 140;
    let flipped = |at: usize| {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        changed
    };
    let swapped = {
        let (one, two) = (header, header + L + 32);
        [&sealed[..one], &sealed[two..two + L + 32], &sealed[one..two], &sealed[two + L + 32..]].concat()
    };
    for (what, object) in [
        ("empty", Vec::new()),
        ("plain", plain.clone()),
        ("short", b"no".to_vec()),
        ("cut in the header", sealed[..header - 1].to_vec()),
        ("cut at a frame", sealed[..header + L + 32].to_vec()),
        ("cut at the end", sealed[..sealed.len() - 1].to_vec()),
        ("longer", [&sealed[..], b"x"].concat()),
        ("header changed", flipped(60)),
        ("first frame changed", flipped(header + 40)),
        ("final frame changed", flipped(sealed.len() - 1)),
        ("frames swapped", swapped),
    ] {
        lake.store.put("open/b", object.clone());
        // It is the message of another key too, but that is told last.
        let mut at_its_place = object;
        lake.store.put("open/a", std::mem::take(&mut at_its_place));
        for key in ["a", "b"] {
            let answer = lake.get(&format!("/open/data/open/{key}"), None).await;
            assert_eq!(
                (answer.status(), answer.code()),
                (502, "object_unopened".into()),
                "{what}: {answer:?}"
            );
            assert!(!answer.body().contains(MARKER));
        }
    }
    lake.store.put("open/b", sealed.clone());
    let answer = lake.get("/open/data/open/b", None).await;
    assert!(answer.code() == "object_unopened" && answer.body().contains("`key` differs"), "{answer:?}");
    // A frame in the middle fails after the head has gone: the answer ends early.
    lake.store.put("open/a", flipped(header + L + 32 + 40));
    let answer = lake.get("/open/data/open/a", None).await;
    assert!(answer.status() == 200 && answer.payload() == plain[..L], "{:?}", answer.payload().len());
    // A range that does not touch the frame is good.
    assert!(lake.get("/open/data/open/a", Some("bytes=0-9")).await.payload() == plain[..10]);
    lake.border.running.shutdown().await;
}

#[tokio::test]
async fn restricted_objects_are_opened_and_sealed_anew_for_their_reader() {
    let lake = Lake::start().await;
    let plain = plain(L + 77);
    let at_rest = lake.seal("restricted/a", &plain).await;
    for range in [None, Some("bytes=32762-32831")] {
        let answer = lake.get("/open/data/restricted/a", range).await;
        let part = range.map_or(0..plain.len(), |_| 32_762..32_832);
        assert_eq!(answer.status(), if range.is_some() { 206 } else { 200 }, "{answer:?}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/vnd.tidegate.sealed"));
        let sealed = answer.payload();
        assert!(!holds(&sealed, MARKER.as_bytes()) && !holds(&at_rest, &sealed[..64]));
        let (opened, context) = lake.open(&sealed, "job", Direction::Answer).await;
        assert!(opened == plain[part.clone()]);
        let said = format!("{}-{}", part.start, part.end - 1);
        for (name, value) in
            [("range", said.as_str()), ("total", &plain.len().to_string()), ("version", "\"v1\"")]
        {
            assert_eq!(context.get(name), Some(value), "{name}");
        }
        let records = lake.border.closed_records(&answer.record().unwrap()).await;
        let outcome = records.iter().find(|record| record["kind"] == "outcome").unwrap();
        assert_eq!(outcome["object"]["key"], "t/acme/lake/rest/v1", "{outcome}");
        assert_eq!(outcome["answer"]["key"], "t/acme/job/answer/v1", "{outcome}");
    }
    // Metadata has no sealed form.
    assert_eq!(lake.send("HEAD /open/data/restricted/a", b"").await.status(), 403);
    lake.border.running.shutdown().await;
}

#[tokio::test]
async fn what_a_client_claims_of_an_upload_is_verified_here() {
    let lake = Lake::start().await;
    let put = async |more: &str| lake.send(&format!("PUT /open/data/open/c\n{more}"), b"123456789").await;
    assert_eq!(put("x-amz-checksum-crc32: y/Q5Jg==\nx-amz-meta-a: 1").await.status(), 200);
    let (requests, _) = lake.store.take();
    let names: Vec<&str> = requests[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"x-amz-meta-a") && !names.contains(&"x-amz-checksum-crc32"), "{names:?}");
    let before = lake.store.object("open/c");
    let sum = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225";
    assert_eq!(
        put(&format!("x-amz-content-sha256: {}", sum.replace('1', "2"))).await.code(),
        "body_malformed"
    );
    assert_eq!(put("x-amz-checksum-crc32: y/Q5Jh==").await.code(), "body_malformed");
    assert_eq!(put("x-amz-checksum-crc64nvme: AAAAAAAAAAA=").await.code(), "store_operation_unsupported");
    assert_eq!(lake.store.object("open/c"), before, "nothing of them was stored");
    let answer = put(&format!("x-amz-content-sha256: {sum}")).await;
    assert_eq!((answer.status(), answer.header("x-amz-checksum-crc32")), (200, None));
    let records = lake.border.closed_records(&answer.record().unwrap()).await;
    let decision = records.iter().find(|record| record["kind"] == "decision").unwrap();
    assert_eq!(
        (&decision["seal"]["key"], &decision["seal"]["direction"]),
        (&"t/acme/lake/rest/v1".into(), &"rest".into())
    );
    let outcome = records.iter().find(|record| record["kind"] == "outcome").unwrap();
    assert_eq!(outcome["request_ciphertext"].as_str().unwrap().len(), 64, "{outcome}");
    lake.border.running.shutdown().await;
}

#[tokio::test]
async fn messages_that_are_kept_travel_as_they_are() {
    let lake = Lake::start().await;
    let plain = plain(L + 3);
    let sealed = lake.seal("restricted/a", &plain).await;
    // Written as it is, if its header is believed.
    let answer = lake.send("PUT /pass/data/open/kept", &sealed).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(lake.store.object("open/kept") == sealed);
    let mut changed = sealed.clone();
    changed[60] ^= 1;
    for (what, body) in
        [("plain", &plain[..]), ("empty", b""), ("changed", &changed), ("cut", &sealed[..100])]
    {
        let answer = lake.send("PUT /pass/data/open/refused", body).await;
        assert_eq!((answer.status(), answer.code()), (422, "object_not_sealed".into()), "{what}: {answer:?}");
    }
    assert!(!lake.store.has("open/refused"));
    // Read as it is: by ciphertext coordinates, several ranges if the store can.
    for key in ["open/kept", "restricted/a"] {
        let answer = lake.get(&format!("/pass/data/{key}"), None).await;
        assert!(answer.status() == 200 && answer.payload() == sealed, "{answer:?}");
        assert_eq!(answer.header("content-type").as_deref(), Some("text/csv"));
        let answer = lake.get(&format!("/pass/data/{key}"), Some("bytes=-40")).await;
        assert!(answer.status() == 206 && answer.payload() == sealed[sealed.len() - 40..], "{answer:?}");
    }
    // What policy wants sealed leaves only if it is; what it does not, leaves as it is.
    lake.store.put("restricted/b", plain.clone());
    lake.store.put("open/b", plain.clone());
    let answer = lake.get("/pass/data/restricted/b", None).await;
    assert_eq!((answer.status(), answer.code()), (502, "object_unopened".into()), "{answer:?}");
    assert!(lake.get("/pass/data/open/b", None).await.payload() == plain);
    // Overwritten after it was believed.
    let plain = plain.clone();
    lake.store.between(move |answered, objects| {
        if answered == 1 {
            write(objects, "restricted/a", plain.clone().into());
        }
    });
    assert_eq!(lake.get("/pass/data/restricted/a", None).await.code(), "object_changed");
    lake.border.running.shutdown().await;
}

#[tokio::test]
async fn what_a_job_seals_on_its_way_is_opened_and_lies_under_the_datasets_key() {
    let lake = Lake::start().await;
    let plain = plain(2 * L + 9);
    let path = "/open/data/restricted/made";
    let put = async |body: &[u8], path: &str| {
        let head = format!(
            "PUT {path}\nContent-Type: application/vnd.tidegate.sealed\nx-amz-checksum-crc32: AAAAAA=="
        );
        lake.send(&head, body).await
    };
    let sealed = lake.sealed_put(path, "job", &plain).await;
    let answer = put(&sealed, path).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.payload(), b"", "S3 clients take a body for an error");
    let records = lake.border.closed_records(&answer.record().unwrap()).await;
    assert_eq!(records[0]["opened"]["key"], "t/acme/job/request/v1", "{records:?}");
    let (opened, context) = lake.open(&lake.store.object("restricted/made"), "lake", Direction::Rest).await;
    assert!(opened == plain && context.get("content-type") == Some("text/csv"), "{context:?}");
    // Once, to that place, with the job's own key, and whole.
    assert_eq!(put(&sealed, path).await.status(), 409);
    let elsewhere = lake.sealed_put("/open/data/restricted/other", "job", &plain).await;
    assert_eq!(put(&elsewhere, path).await.code(), "seal_context");
    let others = lake.sealed_put("/open/data/restricted/other", "other", &plain).await;
    assert_eq!(put(&others, "/open/data/restricted/other").await.code(), "seal_not_a_peer");
    let before = lake.store.object("restricted/made");
    let sealed = lake.sealed_put(path, "job", &plain).await;
    assert_eq!(put(&sealed[..sealed.len() - 1], path).await.status(), 422);
    let mut changed = lake.sealed_put(path, "job", &plain).await;
    let last = changed.len() - 1;
    changed[last] ^= 1;
    assert_eq!(put(&changed, path).await.status(), 422);
    assert!(lake.store.object("restricted/made") == before && !lake.store.has("restricted/other"));
    lake.border.running.shutdown().await;
}
