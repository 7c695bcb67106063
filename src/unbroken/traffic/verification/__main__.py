from unbroken.traffic.verification.page import main

if __name__ == "__main__":
    main()
