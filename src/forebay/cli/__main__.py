from forebay.cli import main

if __name__ == "__main__":  # processes that backfill starts load this module by another name
    main()
